//! Errors as people and programs get them: RFC 9457 `application/problem+json`.

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use serde::Serialize;
use utoipa::ToSchema;

mod code;

pub use self::code::Code;
use crate::{access::limits::Refusal, event, hub, journal, topic};

/// A problem as RFC 9457 defines it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// A URI for the kind of problem; `about:blank` where the status says it all.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The status in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong, where, and what to do.
    pub detail: String,
    /// The kind of problem, for programs.
    pub code: Code,
    /// Which fields of the body were wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Field>,
    /// Seconds after which to try again.
    #[serde(skip)]
    pub retry_after: Option<u64>,
    /// The limit that refused.
    #[serde(skip)]
    pub(super) refusal: Option<Box<Refusal>>,
}

/// A field that was wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Field {
    /// Where it stands, such as `tasks[3].url`.
    pub field: String,
    /// What is wrong with it.
    pub detail: String,
}

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
        }
    }

    /// Replaces the code.
    #[must_use]
    pub fn coded(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// 400: it cannot be read.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 400: a query parameter has a wrong value.
    pub fn parameter(detail: impl Into<String>) -> Self {
        Self::malformed(detail).coded(Code::InvalidParameter)
    }

    /// 422: it can be read, and is wrong.
    pub fn wrong(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// 422 for one field.
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fields(vec![Field { field: field.into(), detail: detail.into() }])
    }

    /// 422 for some fields.
    pub fn fields(errors: Vec<Field>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("`{}`: {}", one.field, one.detail),
            many => format!("{} fields are wrong", many.len()),
        };
        Self { errors, ..Self::wrong(detail) }
    }

    /// 401: nobody known is calling.
    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// 403: whoever is calling may not.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// 508: the request has passed this node before.
    pub fn looped(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::LOOP_DETECTED, detail)
    }

    /// 404.
    pub fn unknown(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 503, to be tried again after so many seconds.
    pub fn unavailable(detail: impl Into<String>, retry_after: u64) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// 429 for a user that already holds its share of a limited resource.
    pub fn share(detail: impl Into<String>) -> Self {
        Self { retry_after: Some(5), ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail) }
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
            // RFC 9110, 15.5.2: it must say by what it could be otherwise.
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer realm=\"millstream\""));
        }
        response.content_type(MEDIA_TYPE).body(serde_json::to_string(self).expect("a problem is plain data"))
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
            _ => Self::unavailable(error.to_string(), 5).coded(Code::JournalUnavailable),
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
        let code = match &error {
            hub::ConnectError::Stopping => Code::NodeStopping,
            hub::ConnectError::Journal(_) => Code::JournalUnavailable,
        };
        Self::unavailable(error.to_string(), 1).coded(code)
    }
}

impl actix_web::Responder for Problem {
    type Body = actix_web::body::BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        self.response()
    }
}
