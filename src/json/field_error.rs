//! A mistake in a JSON body, by field.

use serde::Serialize;
use utoipa::ToSchema;

/// A wrong field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Field)]
pub struct FieldError {
    /// Path of the field, such as `tasks[3].url`.
    pub field: String,
    /// Description of the fault.
    pub detail: String,
}

// === impl FieldError ===

impl FieldError {
    /// A mistake in this field.
    pub fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), detail: detail.into() }
    }

    /// The first of some mistakes as text; empty if there is none.
    pub(crate) fn first(errors: &[Self]) -> String {
        errors.first().map_or_else(String::new, |error| format!("`{}`: {}", error.field, error.detail))
    }
}
