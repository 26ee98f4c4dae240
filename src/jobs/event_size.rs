//! Limits the size of external data in events; pure.

use serde_json::value::RawValue;

use super::handler::TaskError;
use crate::text::shorten;

/// Bytes of an event beside the result, the data or the results: ids, names and numbers at their longest.
pub(crate) const EVENT_OVERHEAD: usize = 4096;
/// Maximum length of an error text in bytes, unless events must be small.
const MAX_ERROR_BYTES: usize = 2048;
/// Maximum length of an error code in bytes.
const MAX_CODE_BYTES: usize = 64;
/// Maximum length of the message of a progress report in bytes.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Maximum bytes of data that one report can bring into an event.
pub(crate) fn data_bytes(max_event_bytes: usize) -> usize {
    max_event_bytes.saturating_sub(EVENT_OVERHEAD)
}

/// The data, or a note of their size if they are larger than `max` bytes.
pub(crate) fn fit_data(data: Box<RawValue>, max: usize) -> Box<RawValue> {
    let bytes = data.get().len();
    if bytes <= max {
        return data;
    }
    let omitted = format!(r#"{{"omitted":true,"bytes":{bytes}}}"#);
    RawValue::from_string(omitted).expect("the line above is JSON")
}

/// The message of a report, shortened.
pub(crate) fn fit_message(message: Option<String>) -> Option<String> {
    message.map(|message| shorten(message, MAX_MESSAGE_BYTES))
}

/// Shortens the message and the code of an error, which are in events, in snapshots and in memory.
pub(crate) fn fit_error(error: &mut TaskError, max_event_bytes: usize) {
    let max = MAX_ERROR_BYTES.min(max_event_bytes / 16);
    error.message = shorten(std::mem::take(&mut error.message), max);
    error.code = shorten(std::mem::take(&mut error.code), MAX_CODE_BYTES);
}
