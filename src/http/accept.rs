//! Parses `Accept` and `Accept-Encoding` with their weights (RFC 9110, section 12.4).
//!
//! No other module parses these fields. A weight of 0 means "not acceptable"; a weight that cannot be read counts as 1.

use actix_web::{
    dev::RequestHead,
    http::{
        Method,
        header::{self, HeaderMap, HeaderName},
    },
};

use crate::sse;

/// Media type of responses that are not streams.
const JSON: &str = "application/json";

/// How specifically a range of `Accept` matches a media type.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Match {
    /// `*/*`
    Any,
    /// `text/*`
    Kind,
    /// The type itself.
    Exact,
}

/// True if the client explicitly accepts event streams. For routes that offer no other media type.
pub(super) fn takes_stream(headers: &HeaderMap) -> bool {
    media_weight(headers, sse::MEDIA_TYPE).is_some_and(|(named, weight)| named == Match::Exact && weight > 0.0)
}

/// True for a GET of an EventSource, which any status but 200 would end permanently, and for the matching HEAD.
pub(super) fn is_event_source(request: &RequestHead) -> bool {
    matches!(request.method, Method::GET | Method::HEAD) && takes_stream(request.headers())
}

/// True if the client prefers an event stream to JSON. With equal weights, only an explicit `text/event-stream` counts
/// as a preference.
pub(super) fn prefers_stream(headers: &HeaderMap) -> bool {
    let Some((named, stream)) = media_weight(headers, sse::MEDIA_TYPE) else { return false };
    let json = media_weight(headers, JSON).map_or(0.0, |(_, weight)| weight);
    stream > 0.0 && (stream > json || (stream >= json && named == Match::Exact))
}

/// True if the client accepts gzip and does not prefer an uncompressed response.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let weight = |names: &[&str]| {
        let all = elements(headers, &header::ACCEPT_ENCODING);
        let named = all.filter(|(coding, _)| names.iter().any(|name| coding.eq_ignore_ascii_case(name)));
        named.map(|(_, weight)| weight).reduce(f32::max)
    };
    let any = weight(&["*"]);
    let gzip = weight(&["gzip", "x-gzip"]).or(any).unwrap_or(0.0);
    let plain = weight(&["identity"]).or(any).unwrap_or(0.0);
    gzip > 0.0 && gzip >= plain
}

/// The weight of a media type, from the most specific matching range.
fn media_weight(headers: &HeaderMap, media: &str) -> Option<(Match, f32)> {
    let kind = media.split('/').next().unwrap_or_default();
    let matching = elements(headers, &header::ACCEPT).filter_map(|(range, weight)| {
        let matched = match range.split_once('/') {
            Some(("*", "*")) => Match::Any,
            Some((own, "*")) if own.eq_ignore_ascii_case(kind) => Match::Kind,
            _ if range.eq_ignore_ascii_case(media) => Match::Exact,
            _ => return None,
        };
        Some((matched, weight))
    });
    matching.reduce(|best, next| if next > best { next } else { best })
}

/// The elements of a list over all lines of the field, each with its weight.
fn elements<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = (&'a str, f32)> {
    let lines = headers.get_all(name).filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter_map(|element| {
        let mut parts = element.split(';').map(str::trim);
        let value = parts.next().filter(|value| !value.is_empty())?;
        let weight =
            parts.filter_map(|part| part.split_once('=')).find(|(key, _)| key.trim().eq_ignore_ascii_case("q"));
        Some((value, weight.map_or(1.0, |(_, text)| weight_of(text))))
    })
}

fn weight_of(text: &str) -> f32 {
    let weight = text.trim().parse::<f32>().ok().filter(|weight| weight.is_finite());
    weight.map_or(1.0, |weight| weight.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn headers(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name.clone(), HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    #[test]
    fn a_stream_is_taken_by_its_name_and_a_weight_above_zero() {
        // The field; whether it accepts a stream; whether it prefers a stream to JSON.
        for (accept, takes, prefers) in [
            ("text/event-stream", true, true),
            ("Text/Event-Stream; charset=utf-8", true, true),
            ("text/event-stream, */*;q=0.1", true, true),
            ("application/json, text/event-stream", true, true),
            ("application/json, text/event-stream;q=0.5", true, false),
            ("application/json;q=0.5, text/event-stream;q=0.6", true, true),
            ("text/event-stream;q=0", false, false),
            ("text/event-stream;q=0.000, application/json", false, false),
            ("text/event-stream ; Q = 0", false, false),
            ("text/event-stream;q=0, */*", false, false),
            ("*/*, text/event-stream;q=0", false, false),
            ("*/*", false, false),
            ("text/*", false, true),
            ("text/*, application/json", false, false),
            ("text/*;q=0.9, application/json;q=0.8", false, true),
            ("application/json", false, false),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false, false),
            ("text/event-streams", false, false),
            ("text/event-stream;q=high", true, true),
            ("text/event-stream;q=-1", false, false),
            ("text/event-stream;q=NaN", true, true),
            (", ,text/event-stream,", true, true),
            ("", false, false),
        ] {
            let headers = headers(&header::ACCEPT, &[accept]);
            assert_eq!((takes_stream(&headers), prefers_stream(&headers)), (takes, prefers), "{accept}");
        }
        assert!(!takes_stream(&HeaderMap::new()) && !prefers_stream(&HeaderMap::new()));
        let lines = headers(&header::ACCEPT, &["application/json;q=0.1", "text/event-stream"]);
        assert!(takes_stream(&lines) && prefers_stream(&lines), "a list may have several lines");
    }

    #[test]
    fn gzip_is_taken_where_its_weight_is_above_zero_and_not_below_that_of_identity() {
        for (accept, takes) in [
            ("gzip", true),
            ("GZIP", true),
            ("x-gzip", true),
            ("br, gzip;q=0.5", true),
            ("*", true),
            ("*;q=0.1", true),
            ("gzip;q=0", false),
            ("gzip;q=0.0, *", false),
            ("*;q=0", false),
            ("*;q=0, gzip", true),
            ("identity", false),
            ("identity;q=0", false),
            ("identity;q=0, *", true),
            ("identity, gzip;q=0.5", false),
            ("identity;q=0.5, gzip", true),
            ("gzip;q=0.5, *", false),
            ("br, deflate", false),
            ("", false),
        ] {
            assert_eq!(takes_gzip(&headers(&header::ACCEPT_ENCODING, &[accept])), takes, "{accept}");
        }
        assert!(!takes_gzip(&HeaderMap::new()), "a client without the field may not support gzip");
    }
}
