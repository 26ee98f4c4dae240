//! The reasons why the node refuses a request: the caller may not do this, has exceeded a limit, or the node has no room.
//!
//! A reason gives the status and the `code` of the problem, the label of the metric `http_refused`, and the word of the
//! audit line. A new reason is one row in [`refusals!`], and one in the table of `docs/operating.md`.

use actix_web::http::StatusCode;

use super::code::Code;
use crate::hub;

/// Makes the enum and its table of rows: reason, word, status, code.
macro_rules! refusals {
    ($($(#[$doc:meta])* $reason:ident: $word:literal, $status:ident, $code:ident;)*) => {
        /// A reason to refuse a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Refusal {
            $($(#[$doc])* $reason,)*
        }

        impl Refusal {
            /// All reasons, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$reason),*];

            fn row(self) -> (&'static str, StatusCode, Code) {
                match self {
                    $(Self::$reason => ($word, StatusCode::$status, Code::$code),)*
                }
            }
        }
    };
}

refusals! {
    /// The request has no credential.
    NoCredential: "no_credential", UNAUTHORIZED, Unauthenticated;
    /// The token is not known here.
    UnknownToken: "unknown_token", UNAUTHORIZED, Unauthenticated;
    /// The token has expired.
    ExpiredToken: "expired_token", UNAUTHORIZED, Unauthenticated;
    /// The token is not valid yet.
    EarlyToken: "early_token", UNAUTHORIZED, Unauthenticated;
    /// The token is malformed, or its issuer, audience, algorithm or signature is wrong.
    UnacceptableToken: "unacceptable_token", UNAUTHORIZED, Unauthenticated;
    /// The ticket was used or has expired.
    UsedTicket: "used_ticket", UNAUTHORIZED, Unauthenticated;
    /// A ticket came with another method than GET.
    TicketMethod: "ticket_method", UNAUTHORIZED, Unauthenticated;
    /// The secret, signature or timestamp of a webhook delivery is wrong.
    WebhookProof: "webhook_proof", UNAUTHORIZED, Unauthenticated;
    /// The caller may not publish into the topic.
    Publish: "may_not_publish", FORBIDDEN, Forbidden;
    /// The caller may not subscribe to the topic.
    Subscribe: "may_not_subscribe", FORBIDDEN, Forbidden;
    /// The caller may not use the remote.
    Remote: "may_not_use_remote", FORBIDDEN, Forbidden;
    /// The caller may not submit jobs.
    Jobs: "may_not_submit_jobs", FORBIDDEN, Forbidden;
    /// Only admins may do this.
    AdminOnly: "admin_only", FORBIDDEN, Forbidden;
    /// The request is about another user.
    OtherUser: "other_user", FORBIDDEN, Forbidden;
    /// The request is about a group of which the caller is no member.
    OtherGroup: "other_group", FORBIDDEN, Forbidden;
    /// The metadata of the caller are fixed by its token.
    Metadata: "metadata_from_token", FORBIDDEN, Forbidden;
    /// In open mode, the `Host` is not a name of this machine.
    Host: "host_not_allowed", FORBIDDEN, HostNotAllowed;
    /// The request comes from a web page of another site.
    Origin: "origin_not_allowed", FORBIDDEN, OriginNotAllowed;
    /// The settings of the remote do not permit the path.
    Path: "path_not_allowed", FORBIDDEN, PathNotAllowed;
    /// A rate of `[limits]` is used up.
    RateLimited: "rate_limited", TOO_MANY_REQUESTS, RateLimited;
    /// The caller or its address has too many open streams.
    TooManyStreams: "too_many_streams", TOO_MANY_REQUESTS, TooManyStreams;
    /// The caller has too many unfinished jobs.
    TooManyJobs: "too_many_jobs", TOO_MANY_REQUESTS, TooManyJobs;
    /// The caller has too many unused tickets.
    TooManyTickets: "too_many_tickets", TOO_MANY_REQUESTS, TooManyTickets;
    /// The user holds its share of a limited resource (`limits.share_percent`).
    Share: "share_used_up", TOO_MANY_REQUESTS, RateLimited;
    /// The node has its maximum number of connections.
    NodeFull: "node_full", SERVICE_UNAVAILABLE, NodeFull;
    /// The node is stopping.
    NodeStopping: "node_stopping", SERVICE_UNAVAILABLE, NodeStopping;
    /// The node has just started and still restores its jobs and relays.
    NodeStarting: "node_starting", SERVICE_UNAVAILABLE, NodeStarting;
    /// Too many responses wait for clients that do not read them.
    TooManyAnswers: "too_many_answers", SERVICE_UNAVAILABLE, TooManyAnswers;
    /// The node reads as many large bodies as it has memory for.
    TooManyBodies: "too_many_bodies", SERVICE_UNAVAILABLE, Unavailable;
    /// The journal cannot be written or read now.
    Journal: "journal_unavailable", SERVICE_UNAVAILABLE, JournalUnavailable;
    /// The node has its maximum number of jobs or of their tasks.
    JobsFull: "jobs_full", SERVICE_UNAVAILABLE, Unavailable;
    /// The node has its maximum number of relays.
    RelaysFull: "relays_full", SERVICE_UNAVAILABLE, Unavailable;
    /// The node has its maximum number of unused tickets.
    TicketsFull: "tickets_full", SERVICE_UNAVAILABLE, TooManyTickets;
    /// The node reads its maximum number of streams from remotes.
    UpstreamBusy: "upstream_busy", SERVICE_UNAVAILABLE, UpstreamBusy;
    /// The keys that check the token cannot be fetched now.
    KeysUnavailable: "keys_unavailable", SERVICE_UNAVAILABLE, Unavailable;
    /// The node has no secret for this webhook.
    WebhookOff: "webhook_off", SERVICE_UNAVAILABLE, WebhookOff;
}

// === impl Refusal ===

impl Refusal {
    /// The word for metrics and audit lines.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The status of the problem.
    pub fn status(self) -> StatusCode {
        self.row().1
    }

    /// The code of the problem.
    pub fn code(self) -> Code {
        self.row().2
    }

    /// The reason in a `disconnect` frame, for a refusal that is sent as a stream.
    pub(super) fn of_stream(self) -> &'static str {
        match self {
            Self::NodeFull => "full",
            Self::NodeStopping => hub::Reason::Shutdown.as_str(),
            other => other.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_has_a_word_of_its_own_and_a_row_in_the_documents() {
        let words: HashSet<&str> = Refusal::ALL.iter().map(|refusal| refusal.as_str()).collect();
        assert_eq!(words.len(), Refusal::ALL.len());
        let documents = include_str!("../../docs/operating.md");
        for refusal in Refusal::ALL {
            let row = format!("| `{}` | {} |", refusal.as_str(), refusal.status().as_u16());
            assert!(documents.contains(&row), "docs/operating.md has no row `{row}`");
        }
    }
}
