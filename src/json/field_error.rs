//! An error in a JSON body, with its field.

use serde::Serialize;
use utoipa::ToSchema;

/// A field of a JSON body that is not valid.
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
    /// An error in this field.
    pub fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), detail: detail.into() }
    }

    /// Describes the first error, with its field. Empty for an empty list.
    pub(crate) fn first(errors: &[Self]) -> String {
        errors.first().map_or_else(String::new, |error| format!("`{}`: {}", error.field, error.detail))
    }
}
