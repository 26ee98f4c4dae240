//! Import: appends the lines of an export to the journal of a stopped node.
//!
//! ```text
//!  lines ──read, at most one in memory──> drafts ──batches──> append ──> counts
//! ```
//!
//! The input is read in order and in batches of bounded size. A batch is on the disk before its lines are counted. At
//! the first line that is not an event the import ends: all lines before it are imported, and no line after it.
//!
//! An export has no records, so the jobs of its histories are not in it. A history without its job would never be
//! deleted, so topics `job:…` are not imported.

use std::{
    io::{BufRead, Read as _},
    path::Path,
};

use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{AppendError, Batch, Config, Embedded, Journal as _, OpenError};
use crate::{
    event::Draft,
    json::{self, Json, Objects},
    topic::Topic,
};

/// An import into the journal of a stopped node.
pub struct Import {
    journal: Embedded,
    max_event_bytes: usize,
    batch: Vec<Draft>,
    batch_bytes: usize,
    /// Counts up to the last line that was read.
    read: Imported,
    /// Counts up to the last line that is in the journal.
    done: Imported,
}

/// The number of lines and events that an import has finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Number of appended events.
    pub imported: u64,
    /// Number of events of job histories, which are not appended.
    pub skipped: u64,
    /// Number of lines, also empty ones. A later import continues with the next line.
    #[serde(skip)]
    pub lines: u64,
}

/// Why an import has ended early. The lines before are imported; see [`Import::imported`].
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A line is not an event: correct or remove it.
    #[error("line {line}: {reason}")]
    Line {
        /// Number of the line, from 1.
        line: u64,
        /// The reason.
        reason: String,
    },
    /// The input cannot be read.
    #[error("cannot read the events: {0}")]
    Input(#[from] std::io::Error),
    /// The journal rejects the events.
    #[error(transparent)]
    Journal(#[from] AppendError),
}

/// Maximum number of events in one batch.
const BATCH_EVENTS: usize = 1000;
/// Size of the lines with which a batch is complete.
const BATCH_BYTES: usize = 1 << 20;
/// Maximum length of one byte of an event in JSON: `\u0000`.
const ESCAPED_BYTES: usize = 6;
/// Maximum length of the rest of a line: 64 topics of 255 bytes, the origin, the source, and the names of the fields.
const OVERHEAD_BYTES: usize = 128 << 10;
/// Prefix of the topics of relays, and of the publishers of their events.
const RELAY: &str = "relay:";
/// Prefix of the topics that are not imported.
const JOB: &str = "job:";

/// A line of an export. The position and the timestamp are new, so the old ones are not used.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ImportRow<'a> {
    #[serde(rename = "id")]
    _id: Option<IgnoredAny>,
    topic: Topic,
    #[serde(default)]
    also_in: Vec<Topic>,
    event: Option<String>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(rename = "timestamp")]
    _timestamp: Option<IgnoredAny>,
    origin: Option<String>,
    source: Option<String>,
    publisher_id: Option<String>,
}

// === impl Import ===

impl Import {
    /// Opens the journal in the data directory of a stopped node. Directory and journal are created if they do not
    /// exist. Nothing is deleted by retention.
    ///
    /// # Errors
    /// If a node uses the directory, it cannot be used, or its content is damaged.
    pub fn open(dir: &Path, max_event_bytes: usize) -> Result<Self, OpenError> {
        let journal = Embedded::open(&settings(max_event_bytes), dir)?;
        let (read, done) = (Imported::default(), Imported::default());
        Ok(Self { journal, max_event_bytes, batch: Vec::new(), batch_bytes: 0, read, done })
    }

    /// Imports all lines. The thread waits for the input.
    ///
    /// # Errors
    /// If a line is not an event, the input cannot be read, or the journal rejects the events.
    pub async fn run(&mut self, mut input: impl BufRead) -> Result<(), ImportError> {
        let mut line = Vec::new();
        loop {
            let more = self.fill(&mut input, &mut line);
            // The events before a line that is not valid are imported.
            self.append().await?;
            if !more? {
                return Ok(());
            }
        }
    }

    /// The number of lines and events that are in the journal.
    pub fn imported(&self) -> Imported {
        self.done
    }

    /// Closes the journal. Afterwards a node can open it.
    pub async fn close(self) {
        self.journal.close().await;
    }

    /// Reads lines until the batch is complete. Returns false at the end of the input.
    fn fill(&mut self, input: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, ImportError> {
        while self.batch.len() < BATCH_EVENTS && self.batch_bytes < BATCH_BYTES {
            let number = self.read.lines + 1;
            let failed = |reason| ImportError::Line { line: number, reason };
            if !read_line(input, line, self.max_line_bytes())?.map_err(failed)? {
                return Ok(false);
            }
            // Programs on Windows write a byte order mark before the first line.
            let text = if number == 1 { json::without_mark(line) } else { &line[..] };
            if !text.trim_ascii().is_empty() {
                match draft(text, number, self.max_event_bytes).map_err(failed)? {
                    Some(draft) => {
                        self.read.imported += 1;
                        self.batch_bytes += text.len();
                        self.batch.push(draft);
                    }
                    None => self.read.skipped += 1,
                }
            }
            self.read.lines = number;
        }
        Ok(true)
    }

    async fn append(&mut self) -> Result<(), ImportError> {
        let events = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        if !events.is_empty() {
            self.journal.append(Batch::events(events)).await?;
        }
        self.done = self.read;
        Ok(())
    }

    fn max_line_bytes(&self) -> usize {
        self.max_event_bytes.saturating_mul(ESCAPED_BYTES).saturating_add(OVERHEAD_BYTES)
    }
}

/// Settings without limits of retention, so that nothing is deleted. The node applies its own limits at its next start.
/// The limit of free disk space stays, so that the node can still write.
fn settings(max_event_bytes: usize) -> Config {
    // Event ids of an earlier import must not count either.
    Config { max_event_bytes, dedupe_ms: 0, ..Config::unlimited() }
}

/// Reads one line without its end. Returns false at the end of the input; the inner error is about the line.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>, max_bytes: usize) -> std::io::Result<Result<bool, String>> {
    line.clear();
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    input.take(limit).read_until(b'\n', line)?;
    if line.is_empty() {
        return Ok(Ok(false));
    }
    let complete = line.pop_if(|last| *last == b'\n').is_some();
    if !complete && line.len() > max_bytes {
        return Ok(Err(format!("the line has more than {max_bytes} bytes, the limit for the largest event")));
    }
    Ok(Ok(true))
}

/// The event of a line; `None` for an event that is only in the history of a job. The error describes the fault.
fn draft(line: &[u8], number: u64, max_event_bytes: usize) -> Result<Option<Draft>, String> {
    let Objects(row) = serde_json::from_slice::<Objects<ImportRow<'_>>>(line).map_err(|error| fault(&error))?;
    let mut topics = row.also_in;
    topics.insert(0, row.topic);
    // A job sends some events also to other topics. They stay in these.
    topics.retain(|topic| !topic.as_str().starts_with(JOB));
    if topics.is_empty() {
        return Ok(None);
    }
    let draft = Draft {
        publisher: publisher(&topics, row.source.as_deref(), row.publisher_id.is_some(), number)?,
        topics,
        // `message` is the name of events without a name.
        event: row.event.filter(|name| name != "message").unwrap_or_default(),
        data: payload(row.data.get())?,
        key: row.publisher_id,
        origin: row.origin,
        ..Draft::default()
    };
    draft.check(max_event_bytes).map_err(|invalid| invalid.to_string())?;
    Ok(Some(draft))
}

/// The publisher of an event: its relay, else a name for this line alone.
///
/// An export has no publishers. With one name for all lines, equal event ids of two publishers would count as
/// duplicates. The name has a space, so no user has it: an event of a user is never a duplicate of an imported one.
fn publisher(topics: &[Topic], source: Option<&str>, has_key: bool, number: u64) -> Result<String, String> {
    let relay = topics.iter().find(|topic| topic.as_str().starts_with(RELAY));
    match (relay, source) {
        (Some(_), _) if has_key => Err("`publisherId`: events of a relay have no id of a publisher".to_owned()),
        (Some(relay), Some(source)) => Ok(format!("{relay}/{source}")),
        (Some(relay), None) => Ok(relay.to_string()),
        (None, Some(_)) => Err("`source`: only an event in a topic `relay:ID` has a source".to_owned()),
        (None, None) => Ok(format!("import {number}")),
    }
}

/// The payload that is exported as this JSON: the text of a string, any other value as compact JSON.
///
/// A string whose text is JSON was a JSON string in the journal too: its text alone would be exported as other JSON.
fn payload(exported: &str) -> Result<String, String> {
    let json = Json::parse(exported).map_err(|invalid| format!("`data`: {}", invalid.what))?;
    let text = json.string().filter(|text| json::compact(text).is_err());
    Ok(text.unwrap_or_else(|| json.get().to_owned()))
}

/// The fault of a line. The line of the error is always 1, so it has only the column.
fn fault(error: &serde_json::Error) -> String {
    let (text, column) = (error.to_string(), error.column());
    let suffix = format!(" at line {} column {column}", error.line());
    text.strip_suffix(&suffix).map_or_else(|| text.clone(), |what| format!("{what} (column {column})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Position};

    fn read(line: &str) -> Result<Option<Event>, String> {
        let draft = draft(line.as_bytes(), 7, 1 << 20)?;
        Ok(draft.map(|draft| draft.into_event(Position { epoch: 1, offset: 1 }, 0)))
    }

    fn event(line: &str) -> Event {
        read(line).unwrap().unwrap()
    }

    #[test]
    fn the_payload_of_an_imported_event_is_exported_as_the_same_json() {
        for data in [
            r#""hello""#,
            r#""""#,
            r#""{""#,
            r#""größe\n""#,
            r#""123""#,
            r#""\"quoted\"""#,
            r#""{\"a\":1}""#,
            "123",
            "1.50",
            "[1e400,-0]",
            "null",
            r#"{"b":1,"a":"\u00e9","b":2}"#,
        ] {
            let event = event(&format!(r#"{{"topic":"t","data":{data}}}"#));
            assert_eq!(event.data_json().get(), data);
        }
        assert_eq!(&*event(r#"{"topic":"t","data":"hello"}"#).data, "hello");
        assert_eq!(&*event(r#"{"topic":"t","data":"gr\u00f6\u00dfe"}"#).data, "größe");
        assert_eq!(&*event(r#"{"topic":"t","data":{"a": [1, 2]}}"#).data, r#"{"a":[1,2]}"#);
        let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
        assert_eq!(&*event(&format!(r#"{{"topic":"t","data":{deep}}}"#)).data, deep);
    }

    #[test]
    fn an_event_of_a_relay_has_the_same_source() {
        let relayed = event(r#"{"topic":"user:1","alsoIn":["relay:x"],"data":1,"origin":"7","source":"a/b"}"#);
        assert_eq!((relayed.source(), relayed.origin.as_deref(), relayed.name()), (Some("a/b"), Some("7"), "message"));
        let state = event(r#"{"topic":"relay:x","event":"relay_open","data":{}}"#);
        assert_eq!((state.source(), state.name()), (None, "relay_open"));
        read(r#"{"topic":"user:1","event":"relay_open","data":{}}"#).unwrap_err();
    }

    #[test]
    fn equal_ids_of_publishers_are_not_duplicates() {
        let line = br#"{"topic":"t","data":1,"publisherId":"k"}"#;
        let publisher = |number| draft(line, number, 4096).unwrap().unwrap().publisher;
        assert_ne!(publisher(1), publisher(2));
        assert!(publisher(1).contains(' '), "a user may have this name");
    }

    #[test]
    fn topics_of_jobs_are_left_out() {
        assert!(read(r#"{"topic":"job:1","event":"complete","data":{}}"#).unwrap().is_none());
        let event = event(r#"{"topic":"job:1","alsoIn":["user:1","job:2"],"event":"complete","data":{}}"#);
        assert_eq!(*event.topics, [Topic::user("1").unwrap()]);
    }

    #[test]
    fn a_fault_is_reported_with_its_field_or_column() {
        for (line, reason) in [
            ("{", "EOF while parsing an object (column 1)"),
            (r#"{"data":1}"#, "missing field `topic` (column 10)"),
            (r#"{"topic":"t"}"#, "missing field `data` (column 13)"),
            (r#"["t"]"#, "an array, expected an object"),
            (r#"{"topic":"a b","data":1}"#, "white space"),
            (r#"{"topic":"t","data":1,"ttlMs":5}"#, "unknown field `ttlMs`"),
            (r#"{"topic":"t","data":1} {}"#, "trailing characters (column 24)"),
            (r#"{"topic":"t","data":"\ud800"}"#, "`data`: half of a surrogate pair"),
            (r#"{"topic":"t","data":1,"event":"gap"}"#, "name of a control frame"),
            (r#"{"topic":"t","data":1,"source":"s"}"#, "`source`: only"),
            (r#"{"topic":"relay:1","data":1,"publisherId":"k"}"#, "`publisherId`: events of a relay"),
        ] {
            let found = read(line).unwrap_err();
            assert!(found.contains(reason), "{line}: {found}");
        }
        let large = draft(format!(r#"{{"topic":"t","data":"{}"}}"#, "x".repeat(11)).as_bytes(), 1, 10).unwrap_err();
        assert!(large.contains("max_event_bytes"), "{large}");
    }

    #[test]
    fn lines_are_read_with_a_limit() {
        let mut input = &b"abc\r\n\nabcd\nabc"[..];
        let mut line = Vec::new();
        let mut next = |max| read_line(&mut input, &mut line, max).unwrap().map(|more| (more, line.clone()));
        assert_eq!(next(4), Ok((true, b"abc\r".to_vec())));
        assert_eq!(next(4), Ok((true, Vec::new())));
        assert_eq!(next(4), Ok((true, b"abcd".to_vec())));
        assert_eq!(next(3), Ok((true, b"abc".to_vec())));
        assert_eq!(next(3), Ok((false, Vec::new())));
        let mut input = &b"abcd\n"[..];
        assert!(read_line(&mut input, &mut Vec::new(), 3).unwrap().is_err());
    }

    /// A batch must not reject what two publishers of the old node were permitted to publish.
    #[tokio::test]
    async fn batches_are_bounded_and_complete_before_a_fault() {
        let dir = tempfile::tempdir().unwrap();
        let mut import = Import::open(dir.path(), 1 << 20).unwrap();
        let mut lines = String::new();
        for number in 0..BATCH_EVENTS + 10 {
            lines += &format!("{{\"topic\":\"t\",\"data\":{number},\"publisherId\":\"one key\"}}\n");
        }
        for _ in 0..3 {
            lines += &format!("{{\"topic\":\"big\",\"data\":\"{}\"}}\n", "x".repeat(700_000));
        }
        lines += "\n{\"topic\":\"job:1\",\"data\":1}\nnonsense\n{\"topic\":\"t\",\"data\":1}\n";
        let failed = import.run(lines.as_bytes()).await.unwrap_err();
        let all = BATCH_EVENTS as u64 + 13;
        assert!(matches!(failed, ImportError::Line { line, .. } if line == all + 3), "{failed}");
        assert_eq!(import.imported(), Imported { imported: all, skipped: 1, lines: all + 2 });
        let stats = import.journal.stats();
        assert_eq!((stats.events, stats.commits, stats.duplicates), (all, 3, 0));
        import.close().await;
    }
}
