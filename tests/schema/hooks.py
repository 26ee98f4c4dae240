"""What schemathesis has to know beside the document (SCHEMATHESIS_HOOKS).

An event stream does not end by itself. The node is started with a short `default_timeout_ms`; what is left is the caller's
own wish for a long life or for one without end.
"""

import schemathesis

# Of a stream that is asked for a longer life, in milliseconds.
LIFE_MS = 50
# What `emitter.max_timeout_ms` permits.
MOST_MS = 86_400_000


@schemathesis.hook
def before_call(context, case, kwargs):
    """Gives streams a short life. What is no lifetime stays as it is: it must be refused."""
    asked = (case.query or {}).get("timeoutMs")
    if str(asked).isdigit() and (int(asked) == 0 or LIFE_MS < int(asked) <= MOST_MS):
        case.query["timeoutMs"] = LIFE_MS
