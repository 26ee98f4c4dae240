//! One hop of a request, and the next hop after a redirect; pure.
//!
//! Owns the rules for URLs (scheme, no credentials), and the header fields that a caller can set. Decides which parts of a
//! request survive a redirect. The connector, which every hop passes, asks the guard.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LOCATION,
        CONTENT_RANGE, CONTENT_TYPE, LAST_MODIFIED, LOCATION, USER_AGENT, VIA,
    },
};
use url::Url;

use super::{
    Error, Request, Trust,
    fields::{HOP_BY_HOP, TRANSPORT},
};

/// Maximum length of a URL in bytes. Many servers accept no longer one.
const URL_MAX: usize = 8192;

/// Fields that describe a body. They are removed together with it (RFC 9110, section 15.4).
const CONTENT: [HeaderName; 9] = [
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LOCATION,
    CONTENT_RANGE,
    CONTENT_TYPE,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    LAST_MODIFIED,
];

/// Fields that a redirect may send to another origin. Any other field may contain a secret.
const HARMLESS: [HeaderName; 11] = [
    ACCEPT,
    ACCEPT_ENCODING,
    ACCEPT_LANGUAGE,
    CACHE_CONTROL,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_TYPE,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("last-event-id"),
    USER_AGENT,
    VIA,
];

/// A request to one server.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trust: Trust,
}

/// Parses a URL, and checks it as far as possible without a name lookup. The guard checks the addresses later.
///
/// Hosts are normalized: `http://0x7f.1/` becomes `http://127.0.0.1/`. A URL has at most 8192 bytes.
///
/// # Errors
/// [`Error::BadUrl`] with the mistake.
pub fn parse_url(text: &str) -> Result<Url, Error> {
    let bad = |reason: String| Error::BadUrl { reason };
    if text.len() > URL_MAX {
        return Err(bad(format!("it has {} bytes, the limit is {URL_MAX}", text.len())));
    }
    let url = Url::parse(text).map_err(|error| bad(error.to_string()))?;
    check(&url).map_err(bad)?;
    Ok(url)
}

/// The target of a redirect (Fetch, "redirect status"). Any other 3xx, or one of these without `Location`, is a final
/// response; `status` decides its meaning.
pub(super) fn location(status: StatusCode, headers: &HeaderMap) -> Option<&HeaderValue> {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308).then(|| headers.get(LOCATION))?
}

fn check(url: &Url) -> Result<(), String> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("scheme `{}` is not supported, use http or https", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it contains credentials, send them in a header field".into());
    }
    if url.host().is_none() {
        return Err("the host is missing".into());
    }
    Ok(())
}

// === impl Hop ===

impl Hop {
    /// Creates the first hop of a request, without the header fields of the transport.
    ///
    /// # Errors
    /// [`Error::BadUrl`] and [`Error::BadMethod`].
    pub(super) fn first(request: Request) -> Result<Self, Error> {
        let Request { method, url, headers, body, trust, .. } = request;
        if method == Method::CONNECT || method == Method::TRACE {
            return Err(Error::BadMethod(method));
        }
        let mut hop = Self { method, url: parse_url(&url)?, headers, body, trust };
        hop.remove(&HOP_BY_HOP);
        hop.remove(&TRANSPORT);
        Ok(hop)
    }

    /// Creates the hop to the target of a redirect.
    ///
    /// # Errors
    /// [`Error::Redirect`] if the target is not a valid URL, or leads from https to http.
    pub(super) fn follow(mut self, status: StatusCode, location: &HeaderValue) -> Result<Self, Error> {
        let refused = |reason: String| Error::Redirect { reason };
        let target = std::str::from_utf8(location.as_bytes()).map_err(|_| refused("its target is not UTF-8".into()))?;
        if target.len() > URL_MAX {
            return Err(refused(format!("its target has more than {URL_MAX} bytes")));
        }
        let url = self.url.join(target).map_err(|error| refused(error.to_string()))?;
        check(&url).map_err(refused)?;
        if self.url.scheme() == "https" && url.scheme() == "http" {
            return Err(refused("it leads from https to http".into()));
        }
        if url.origin() != self.url.origin() {
            self.headers = HARMLESS
                .into_iter()
                .filter_map(|name| self.headers.get(&name).map(|value| (name, value.clone())))
                .collect();
            // The configuration trusts its own server, but not the servers to which this server redirects.
            self.trust = Trust::Client;
        }
        // RFC 9110, section 15.4: only POST may become GET; 303 always changes to GET, except for HEAD.
        let to_get = match status.as_u16() {
            301 | 302 => self.method == Method::POST,
            303 => self.method != Method::GET && self.method != Method::HEAD,
            _ => false,
        };
        if to_get {
            self.method = Method::GET;
            self.body = Bytes::new();
            self.remove(&CONTENT);
        }
        self.url = url;
        Ok(self)
    }

    fn remove(&mut self, names: &[HeaderName]) {
        for name in names {
            self.headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING};

    use super::*;

    fn hop(method: Method, url: &str) -> Hop {
        let headers = HeaderMap::from_iter(
            [
                (AUTHORIZATION, "Bearer s"),
                (COOKIE, "a=b"),
                (HeaderName::from_static("x-auth-token"), "s"),
                (HeaderName::from_static("x-signature"), "s"),
                (HeaderName::from_static("proxy-authorization"), "s"),
                (ACCEPT, "text/event-stream"),
                (CONTENT_TYPE, "text/plain"),
                (HOST, "inner"),
                (CONTENT_LENGTH, "7"),
                (TRANSFER_ENCODING, "chunked"),
            ]
            .map(|(name, value)| (name, HeaderValue::from_static(value))),
        );
        let body = Bytes::from_static(b"body");
        Hop::first(Request { headers, body, ..Request::new(method, url, Trust::Operator) }).expect("a valid request")
    }

    fn names(hop: &Hop) -> Vec<&str> {
        let mut names: Vec<_> = hop.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    fn follow(hop: Hop, status: u16, target: &'static str) -> Result<Hop, Error> {
        hop.follow(StatusCode::from_u16(status).expect("a status"), &HeaderValue::from_static(target))
    }

    #[test]
    fn every_form_of_a_host_is_normalized() {
        for url in [
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://0x7f000001/",
            "http://①②⑦.0.0.1/",
            "http://%31%32%37.0.0.1/",
            "http://127.0.0.1./",
            "HTTP:\\\\127.0.0.1\\",
        ] {
            assert_eq!(parse_url(url).expect(url).host_str(), Some("127.0.0.1"), "{url}");
        }
    }

    #[test]
    fn invalid_urls_are_refused() {
        let long = format!("http://h/{}", "a".repeat(URL_MAX));
        for url in [
            "",
            "/path",
            "h",
            "ftp://h/",
            "file:///etc/passwd",
            "gopher://h/",
            "data:,x",
            "ws://h/",
            "http://",
            "http://u@h/",
            "http://u:p@h/",
            "http://:p@h/",
            "http://h:99999/",
            "http://[::1",
            "http://256.0.0.1/",
            "http://[fe80::1%25eth0]/",
            "javascript:alert(1)",
            &long,
        ] {
            assert_eq!(parse_url(url).expect_err(url).code(), "bad_url", "{url}");
        }
    }

    #[test]
    fn a_refusal_does_not_quote_credentials() {
        assert!(!parse_url("http://user:hunter2@h/").expect_err("it has credentials").to_string().contains("hunter2"));
    }

    #[test]
    fn a_caller_cannot_set_host_and_framing() {
        assert_eq!(
            names(&hop(Method::POST, "http://h/")),
            ["accept", "authorization", "content-type", "cookie", "proxy-authorization", "x-auth-token", "x-signature"]
        );
    }

    #[test]
    fn connect_and_trace_are_refused() {
        for method in [Method::CONNECT, Method::TRACE] {
            let hop = Hop::first(Request::new(method, "http://h/", Trust::Client));
            assert_eq!(hop.expect_err("the method is refused").code(), "bad_method");
        }
    }

    #[test]
    fn the_same_origin_keeps_credentials_and_trust() {
        let next = follow(hop(Method::GET, "http://h/a/b"), 302, "../c?q#f").expect("a valid redirect");
        assert_eq!(next.url.as_str(), "http://h/c?q#f");
        assert_eq!(next.trust, Trust::Operator);
        assert!(next.headers.contains_key(AUTHORIZATION) && next.headers.contains_key("x-auth-token"));
    }

    #[test]
    fn another_origin_receives_harmless_fields_and_no_trust() {
        for target in ["http://other/", "http://h:81/", "https://h/", "//other/x", "http://sub.h/"] {
            let next = follow(hop(Method::GET, "http://h/"), 307, target).expect(target);
            assert_eq!(names(&next), ["accept", "content-type"], "{target}");
            assert_eq!(next.trust, Trust::Client, "{target}");
        }
        let back =
            follow(hop(Method::GET, "http://h/"), 307, "http://other/").and_then(|h| follow(h, 307, "http://h/"));
        assert_eq!(back.expect("a valid redirect").trust, Trust::Client, "trust is not restored");
    }

    /// RFC 9110, section 15.4, and Fetch, "HTTP-redirect fetch".
    #[test]
    fn only_post_becomes_get_except_after_303() {
        let method = |name: &str| Method::from_bytes(name.as_bytes()).expect("a token");
        for (status, before, after) in [
            (301, "POST", "GET"),
            (302, "POST", "GET"),
            (303, "POST", "GET"),
            (303, "PUT", "GET"),
            (303, "DELETE", "GET"),
            (303, "QUERY", "GET"),
        ] {
            let next = follow(hop(method(before), "http://h/"), status, "/x").expect("a valid redirect");
            assert_eq!((next.method, next.body.len()), (method(after), 0), "{status} {before}");
            assert!(!next.headers.contains_key(CONTENT_TYPE), "{status} {before}");
        }
        for status in [301, 302, 307, 308] {
            for name in ["PUT", "PATCH", "DELETE", "QUERY", "REPORT", "GET", "HEAD", "OPTIONS"] {
                let next = follow(hop(method(name), "http://h/"), status, "/x").expect("a valid redirect");
                assert_eq!((next.method, next.body.len()), (method(name), 4), "{status} {name}");
                assert!(next.headers.contains_key(CONTENT_TYPE), "{status} {name}");
            }
        }
        for (status, name) in [(303, "HEAD"), (303, "GET"), (307, "POST"), (308, "POST")] {
            let next = follow(hop(method(name), "http://h/"), status, "/x").expect("a valid redirect");
            assert_eq!((next.method, next.body.len()), (method(name), 4), "{status} {name}");
        }
    }

    #[test]
    fn redirects_to_invalid_targets_are_refused() {
        for target in ["ftp://h/", "file:///x", "http://u:p@h/", "http://[", "http://other:x/"] {
            assert_eq!(follow(hop(Method::GET, "http://h/"), 302, target).expect_err(target).code(), "redirect");
        }
        assert_eq!(
            follow(hop(Method::GET, "https://h/"), 302, "http://h/").expect_err("a downgrade").code(),
            "redirect"
        );
    }

    #[test]
    fn only_a_redirect_status_with_a_location_is_followed() {
        let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static("/x"))]);
        for (status, expected) in [(200, false), (300, false), (301, true), (304, false), (305, false), (308, true)] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(location(status, &headers).is_some(), expected, "{status}");
            assert!(location(status, &HeaderMap::new()).is_none());
        }
    }
}
