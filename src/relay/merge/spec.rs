//! The sources of a merged stream, before and after they are checked; pure.
//!
//! A source is a path of the default remote, or an object. All sources are checked before the first request, and each
//! mistake is reported with its field.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use utoipa::ToSchema;

use super::Planned;
use crate::{
    json::{FieldError, Json, Objects},
    relay::{Limits, spec},
    upstream::Purpose,
};

/// A source with more than a path.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// The remote to read; without it, `relay.default_remote`.
    remote: Option<String>,
    /// The path to read, with query. The `paths` of the remote must permit it.
    #[schema(min_length = 1)]
    path: String,
    /// The method, by default `GET`; any HTTP method except `CONNECT` and `TRACE`.
    method: Option<String>,
    /// Header fields of the request, at most 64.
    headers: Option<BTreeMap<String, String>>,
    /// The body of the request: a string as it is, any other value as JSON.
    #[schema(value_type = Option<Value>)]
    body: Option<Json>,
    /// The name of the source in the frames; without it, its path.
    #[schema(min_length = 1, max_length = 256)]
    label: Option<String>,
}

/// Maximum length of a label, in bytes.
const MAX_LABEL: usize = 256;

/// Checks all sources.
///
/// # Errors
/// All mistakes.
pub fn sources(limits: Limits<'_>, written: Vec<Json>) -> Result<Vec<Planned>, Vec<FieldError>> {
    let (mut planned, mut errors) = (Vec::with_capacity(written.len()), Vec::new());
    let max = limits.config.max_sources;
    if written.is_empty() || written.len() > max {
        let detail = format!("names {} sources; it takes 1 to {max} (`relay.max_sources`)", written.len());
        return Err(vec![FieldError::new("body", detail)]);
    }
    let mut labels = HashSet::new();
    for (index, value) in written.into_iter().enumerate() {
        let mut fail = |field: &str, detail: String| {
            let dot = if field.is_empty() { "" } else { "." };
            errors.push(FieldError::new(format!("[{index}]{dot}{field}"), detail));
        };
        let Some(SourceSpec { remote, path, method, headers, body, label }) = read(&value, &mut fail) else { continue };
        if let Some(label) = &label {
            if !labels.insert(label.clone()) {
                fail("label", format!("`{}` is the label of two sources", label.escape_debug()));
            }
            if label.is_empty() || label.len() > MAX_LABEL || label.contains(char::is_control) {
                fail("label", format!("a label has 1 to {MAX_LABEL} bytes and no control characters"));
            }
        }
        let source = spec::SourceSpec { remote, path, method, headers, body, ..Default::default() };
        if let Some(request) = source.request(limits, Purpose::Merge, &mut fail) {
            planned.push((source.path, label, request));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let named = planned.into_iter().map(|(path, label, source)| {
        let label = label.unwrap_or_else(|| spec::unused_label(&mut labels, &path, '#')).into();
        Planned { label, path, source }
    });
    Ok(named.collect())
}

/// A source as the client has written it.
fn read(value: &Json, fail: &mut impl FnMut(&str, String)) -> Option<SourceSpec> {
    if let Some(path) = value.string() {
        return Some(SourceSpec { path, ..SourceSpec::default() });
    }
    if !value.get().starts_with('{') {
        fail("", "a source is a path (a string) or an object with `path`".into());
        return None;
    }
    match serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(value.get())) {
        Ok(Objects(spec)) => Some(spec),
        Err(error) => {
            let path = error.path().to_string();
            fail(if path == "." { "" } else { &path }, error.inner().to_string());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        relay::Config,
        upstream::{self, Client, RemoteConfig, Remotes},
    };

    fn plan(written: Value) -> Result<Vec<Planned>, Vec<FieldError>> {
        let at = |base: &str| RemoteConfig { base_url: Some(base.into()), ..RemoteConfig::default() };
        let remotes = BTreeMap::from([("a".to_owned(), at("http://a")), ("b".to_owned(), at("http://b"))]);
        let remotes = Remotes::build(&remotes, &Client::new(upstream::Config::default())).unwrap();
        let config = Config { default_remote: Some("a".into()), max_sources: 6, ..Config::default() };
        let Value::Array(written) = written else { panic!("sources are an array") };
        sources(Limits { config: &config, remotes: &remotes }, written.into_iter().map(Json::from).collect())
    }

    fn errors(written: Value) -> Vec<String> {
        plan(written).unwrap_err().into_iter().map(|error| format!("{}: {}", error.field, error.detail)).collect()
    }

    #[test]
    fn paths_and_objects_can_be_mixed() {
        let sources = plan(json!([
            "/api/sse/x",
            { "remote": "b", "path": "/api/sse/y?z=1", "method": "post", "body": { "n": 1 }, "headers": { "X-A": "1" } },
            { "path": "/api/sse/z", "label": "zed", "method": "POST", "body": "text" },
        ]))
        .unwrap();
        assert_eq!(&*sources[0].label, "/api/sse/x");
        assert_eq!((sources[0].source.remote.name(), sources[0].source.url.as_str()), ("a", "http://a/api/sse/x"));
        let source = &sources[1].source;
        assert_eq!((source.method.as_str(), source.url.as_str()), ("POST", "http://b/api/sse/y?z=1"));
        assert_eq!((source.headers["x-a"].as_bytes(), &source.body[..]), (&b"1"[..], &b"{\"n\":1}"[..]));
        assert_eq!(source.headers["content-type"], "application/json");
        assert_eq!((&*sources[2].label, &sources[2].source.body[..]), ("zed", &b"text"[..]));
        assert_eq!(sources[2].source.headers["content-type"], "text/plain; charset=utf-8");
    }

    #[test]
    fn a_path_that_comes_twice_gets_a_label_of_its_own() {
        let x = "/api/sse/x";
        let sources = plan(json!([x, x, { "path": "/api/sse/y", "label": "/api/sse/x#3" }, x, x])).unwrap();
        let labels: Vec<&str> = sources.iter().map(|source| &*source.label).collect();
        assert_eq!(labels, [x, "/api/sse/x#2", "/api/sse/x#3", "/api/sse/x#4", "/api/sse/x#5"]);
    }

    #[test]
    fn every_mistake_is_named_with_its_path() {
        let found = errors(json!([
            "/api/jobs",
            7,
            { "path": "/api/sse/x", "remote": "c", "method": "CONNECT", "label": "" },
            { "path": "/api/sse/x", "lable": "x" },
            { "path": "/api/sse/x", "body": 1, "headers": { "Host": "h", "a b": "c", "X": "1", "x": "2" } },
            { "path": 1 },
        ]));
        let begins = [
            "[0].path: `/api/jobs` may not be asked of remote `a`",
            "[1]: a source is",
            "[2].label: ",
            "[2].method: method `CONNECT` is not sent",
            "[2].remote: no remote is called `c`; there are `a`, `b`",
            "[3].lable: unknown field `lable`",
            "[4].headers: `Host` is set by the node itself",
            "[4].headers: `a b` is no header field",
            "[4].headers: `x` is given twice",
            "[4].body: a GET has no body",
            "[5].path: invalid type",
        ];
        assert_eq!(found.len(), begins.len(), "{found:#?}");
        for (found, begin) in found.iter().zip(begins) {
            assert!(found.starts_with(begin), "{found} / {begin}");
        }
        for field in ["Last-Event-ID", "Accept", "accept-encoding", "Transfer-Encoding", "Connection"] {
            assert_eq!(errors(json!([{ "path": "/api/sse/x", "headers": { field: "x" } }])).len(), 1, "{field}");
        }
        let twice = errors(json!([{ "path": "/api/sse/x", "label": "l" }, { "path": "/api/sse/y", "label": "l" }]));
        assert!(twice[0].starts_with("[1].label: `l`"), "{twice:?}");
    }

    #[test]
    fn the_number_of_sources_is_bounded() {
        assert!(errors(json!([]))[0].contains("1 to 6"));
        assert!(errors(json!(["/a", "/a", "/a", "/a", "/a", "/a", "/a"]))[0].contains("7 sources"));
    }
}
