//! Errors for people and programs: RFC 9457 `application/problem+json`.

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{code::Code, refusal::Refusal};
use crate::{access::limits::Exceeded, event, hub, journal, json::FieldError, topic};

/// A problem as RFC 9457 defines it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// A URI for the kind of problem; `about:blank` if the status describes it completely.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The status in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// A description of the fault, its place, and the remedy.
    pub detail: String,
    /// The kind of problem, for programs.
    pub code: Code,
    /// The wrong fields of the body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Seconds after which to try again.
    #[serde(skip)]
    pub retry_after: Option<u64>,
    /// The reason, if the node refused the request.
    #[serde(skip)]
    pub(super) refusal: Option<Refusal>,
    /// The exceeded limit, if the reason is a limit.
    #[serde(skip)]
    pub(super) exceeded: Option<Box<Exceeded>>,
}

/// A refusal and its text. Every response to a refused request has it among its extensions.
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    pub(super) detail: String,
}

/// Seconds after which a client may repeat a request that was refused for now, unless a reason gives another time.
const RETRY_S: u64 = 5;

/// Media type of problems.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

// === impl Problem ===

impl Problem {
    /// A problem with this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            code: Code::of(status),
            errors: Vec::new(),
            retry_after: None,
            refusal: None,
            exceeded: None,
        }
    }

    /// Replaces the code.
    #[must_use]
    pub fn coded(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// 400: the request cannot be parsed.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 400: a query parameter has a wrong value.
    pub fn parameter(detail: impl Into<String>) -> Self {
        Self::malformed(detail).coded(Code::InvalidParameter)
    }

    /// 422: the request can be parsed, and has wrong values.
    pub fn wrong(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// 422 for one field.
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fields(vec![FieldError::new(field, detail)])
    }

    /// 422 for some fields.
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("`{}`: {}", one.field, one.detail),
            many => format!("{} fields are wrong", many.len()),
        };
        Self { errors, ..Self::wrong(detail) }
    }

    /// A problem with the status and code of a refusal: 401, 403, 429 or 503. A temporary refusal permits the next try
    /// after five seconds.
    pub fn refused(refusal: Refusal, detail: impl Into<String>) -> Self {
        let status = refusal.status();
        let for_now = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let retry_after = for_now.then_some(RETRY_S);
        Self { retry_after, refusal: Some(refusal), ..Self::new(status, detail).coded(refusal.code()) }
    }

    /// Replaces the time after which to try again, in seconds.
    #[must_use]
    pub fn after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// 508: the request has passed this node before.
    pub fn looped(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::LOOP_DETECTED, detail)
    }

    /// 404.
    pub fn unknown(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 503: a part of the node does not work now. A client may try again after 5 seconds.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).after(RETRY_S)
    }

    /// The response.
    pub fn response(&self) -> HttpResponse {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = HttpResponse::build(status);
        if let Some(seconds) = self.retry_after {
            response.insert_header(("Retry-After", seconds));
        }
        // RFC 9110, section 15.5.16: a 415 names the accepted values.
        match self.code {
            Code::UnsupportedEncoding => response.insert_header((header::ACCEPT_ENCODING, "identity")),
            Code::UnsupportedMediaType => response.insert_header((header::ACCEPT, "application/json")),
            _ => &mut response,
        };
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110, section 15.5.2: a 401 names the authentication scheme.
            let webhook = self.refusal == Some(Refusal::WebhookProof);
            let scheme = if webhook { "Webhook" } else { "Bearer realm=\"millstream\"" };
            response.insert_header((header::WWW_AUTHENTICATE, scheme));
        }
        let text = serde_json::to_string(self).expect("a problem is plain data");
        let mut response = response.content_type(MEDIA_TYPE).body(text);
        if let Some(refusal) = self.refusal {
            response.extensions_mut().insert(Refused { refusal, detail: self.detail.clone() });
        }
        if let Some(exceeded) = self.exceeded.as_deref() {
            response.extensions_mut().insert(*exceeded);
        }
        response
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        self.response()
    }
}

impl From<topic::Invalid> for Problem {
    fn from(invalid: topic::Invalid) -> Self {
        Self::wrong(invalid.to_string()).coded(Code::InvalidTopic)
    }
}

impl From<event::Invalid> for Problem {
    fn from(invalid: event::Invalid) -> Self {
        match invalid {
            event::Invalid::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, invalid.to_string()).coded(Code::EventTooLarge)
            }
            _ => Self::wrong(invalid.to_string()),
        }
    }
}

impl From<journal::Unavailable> for Problem {
    fn from(error: journal::Unavailable) -> Self {
        match error {
            journal::Unavailable::Working => Self::new(StatusCode::CONFLICT, error.to_string()),
            _ => Self::refused(Refusal::Journal, error.to_string()),
        }
    }
}

impl From<journal::AppendError> for Problem {
    fn from(error: journal::AppendError) -> Self {
        use journal::AppendError as E;
        match error {
            E::Invalid { index, reason } => {
                let mut problem = Self::from(reason);
                problem.detail = format!("event {index}: {}", problem.detail);
                problem
            }
            E::KeyReused { .. } => Self::wrong(error.to_string()).coded(Code::KeyReused),
            E::Conflict(_) => Self::new(StatusCode::CONFLICT, error.to_string()),
            E::Unavailable(error) => error.into(),
        }
    }
}

impl From<hub::ConnectError> for Problem {
    fn from(error: hub::ConnectError) -> Self {
        let refusal = match &error {
            hub::ConnectError::Stopping => Refusal::NodeStopping,
            hub::ConnectError::Journal(_) => Refusal::Journal,
        };
        Self::refused(refusal, error.to_string()).after(1)
    }
}

impl actix_web::Responder for Problem {
    type Body = actix_web::body::BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        self.response()
    }
}
