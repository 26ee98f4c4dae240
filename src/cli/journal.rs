//! `journal`: inspects, verifies, exports, imports, compacts or repairs a journal: of a stopped node, or through a
//! running one.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use super::{
    EXIT_DAMAGED, Failure,
    client::{Api, ClientArguments},
    text::{escape_controls, print_line, shorten},
};
use crate::{
    event::Position,
    journal::{self, Export, Import, ImportError, Imported, OfflineJournal, OpenError, Repaired, Unavailable},
    topic::Pattern,
    upstream::Method,
};

mod print;

#[derive(Debug, Subcommand)]
pub(super) enum JournalCommand {
    /// Print events as JSON lines, in journal order.
    Export(ExportArguments),
    /// Append events as JSON lines, as `export` prints them, to the journal of a stopped node.
    ///
    /// The events get new ids and timestamps. Topics `job:…` are skipped, because an export does not have their jobs.
    /// At a line that is not an event the import ends; the events before it are imported.
    Import(ImportArguments),
    /// Print a summary of the journal.
    Inspect(InspectArguments),
    /// Read everything and report damage; exit code 65 if the journal is damaged.
    Verify(InspectArguments),
    /// Keep everything that can be read of a damaged journal; the node must be stopped.
    Repair(RepairArguments),
    /// Free the disk space of deleted data.
    Compact(InspectArguments),
}

/// Selects a journal.
#[derive(Args, Debug)]
struct Which {
    /// Data directory of a stopped node.
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    node: ClientArguments,
}

#[derive(Args, Debug)]
pub(super) struct InspectArguments {
    #[command(flatten)]
    which: Which,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct ExportArguments {
    #[command(flatten)]
    which: Which,
    /// Only events of this topic, or of all topics with a prefix (`order:*`); may be repeated.
    #[arg(long, value_name = "PATTERN")]
    topic: Vec<String>,
    /// Only events after this event id.
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Maximum number of events.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

#[derive(Args, Debug)]
pub(super) struct ImportArguments {
    /// Data directory of a stopped node; created if it does not exist.
    #[arg(long, value_name = "DIR", required_unless_present = "url", conflicts_with = "url")]
    data_dir: Option<PathBuf>,
    /// The other commands have it. Here it gets a message that names the alternative.
    #[arg(long, hide = true)]
    url: Option<String>,
    /// File with the events; default, or `-`: stdin.
    #[arg(value_name = "FILE|-")]
    file: Option<PathBuf>,
    /// Maximum size of an event, if the node has another `journal.max_event_bytes` than its default.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(EVENT_BYTES))]
    max_event_bytes: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct RepairArguments {
    #[command(flatten)]
    which: Which,
    /// Show the result without changing anything.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Permitted values of `--max-event-bytes`.
const EVENT_BYTES: RangeInclusive<i64> = 4096..=256 << 20;
/// Maximum length of the reason why a line is not an event.
const REASON_CHARACTERS: usize = 400;

/// A running node offers most commands too.
const CONNECT: &str = ", or connect to it with `--url URL`";

/// The location of the journal.
enum Target<'a> {
    Offline(&'a Path),
    Running(Box<Api>),
}

pub(super) async fn journal(command: &JournalCommand) -> Result<u8, Failure> {
    match command {
        JournalCommand::Export(arguments) => export(arguments).await,
        JournalCommand::Import(arguments) => import(arguments).await,
        JournalCommand::Inspect(arguments) => inspect(arguments).await,
        JournalCommand::Verify(arguments) => verify(arguments).await,
        JournalCommand::Repair(arguments) => repair(arguments),
        JournalCommand::Compact(arguments) => compact(arguments).await,
    }
}

async fn export(arguments: &ExportArguments) -> Result<u8, Failure> {
    let ExportArguments { which, topic, after, limit } = arguments;
    let usage = |name: &str, value: &str, why: &str| Failure::usage(format!("`{name}` = `{value}`: {why}"));
    let pattern = |text: &String| Pattern::new(text).map_err(|why| usage("--topic", text, &why.to_string()));
    let patterns = topic.iter().map(pattern).collect::<Result<Vec<_>, _>>()?;
    let position =
        |text: &String| text.parse::<Position>().map_err(|()| usage("--after", text, "not a valid event id"));
    let after = after.as_ref().map(position).transpose()?;
    let stopped = match which.target()? {
        Target::Offline(dir) => at(dir)?,
        Target::Running(api) => return export_from(&api, arguments).await,
    };
    let journal = stopped.open()?;
    if let Some(position) = after.filter(|position| position.epoch != journal.epoch()) {
        return Err(usage("--after", &position.to_string(), "it has another epoch than this journal"));
    }
    let mut export = Export::new(journal.clone(), patterns, after.map_or(0, |position| position.offset), *limit);
    let printed = loop {
        match export.next().await {
            Ok(Some(lines)) => match print_line(lines.trim_end_matches('\n')) {
                Ok(()) => {}
                Err(failure) => break Err(failure),
            },
            Ok(None) => break Ok(0),
            Err(Unavailable::Damaged(what) | Unavailable::Unreadable { reason: what, .. }) => {
                break Err(Failure { message: what, code: EXIT_DAMAGED });
            }
            Err(error) => break Err(Failure::new(error.to_string())),
        }
    };
    journal.close().await;
    printed
}

async fn export_from(api: &Api, arguments: &ExportArguments) -> Result<u8, Failure> {
    let mut url = api.url("/api/admin/journal/export");
    {
        let mut query = url.query_pairs_mut();
        for topic in &arguments.topic {
            query.append_pair("topic", topic);
        }
        let limit = arguments.limit.map(|limit| limit.to_string());
        for (name, value) in [("after", &arguments.after), ("limit", &limit)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
    }
    let mut body = api.send(api.request(Method::GET, &url)).await?.body;
    let mut rest = Vec::new();
    while let Some(chunk) = body.chunk().await {
        rest.extend_from_slice(&chunk.map_err(|error| Failure::new(error.to_string()))?);
        // Only complete lines are printed, because a part of a line is not JSON.
        if let Some(end) = memchr::memrchr(b'\n', &rest) {
            print_line(&String::from_utf8_lossy(&rest[..end]))?;
            rest.drain(..=end);
        }
    }
    Ok(0)
}

async fn import(arguments: &ImportArguments) -> Result<u8, Failure> {
    let Some(dir) = &arguments.data_dir else {
        return Err(Failure::usage(
            "events are imported while the node is stopped: stop it, and name its `--data-dir`; a running node gets \
             events by `POST /events`",
        ));
    };
    // Opened first: without input nothing is created.
    let input = input(arguments.file.as_deref())?;
    let requested = arguments.max_event_bytes.and_then(|bytes| usize::try_from(bytes).ok());
    let max_event_bytes = requested.unwrap_or_else(|| journal::Config::default().max_event_bytes);
    let mut import = Import::open(dir, max_event_bytes)
        .map_err(|error| refused(error, dir, ", or publish to it by `POST /events`"))?;
    let done = import.run(input).await;
    let imported = import.imported();
    import.close().await;
    done.map_err(|error| incomplete(&error, imported))?;
    print_line(&if arguments.json { value(&imported).to_string() } else { print::imported(imported) })?;
    Ok(0)
}

fn input(file: Option<&Path>) -> Result<Box<dyn BufRead>, Failure> {
    let Some(file) = file.filter(|file| *file != Path::new("-")) else { return Ok(Box::new(io::stdin().lock())) };
    let opened = File::open(file);
    let opened = opened.map_err(|error| Failure::usage(format!("cannot read `{}`: {error}", file.display())))?;
    Ok(Box::new(BufReader::new(opened)))
}

/// An import that has ended early: the reason, and how to import the rest.
fn incomplete(error: &ImportError, imported: Imported) -> Failure {
    // The reason may have text of the line.
    let reason = shorten(&error.to_string(), REASON_CHARACTERS);
    let message = format!(
        "{reason}. Before that: {}. `tail -n +{}` prints the rest of the input",
        print::imported(imported),
        imported.lines + 1
    );
    match error {
        ImportError::Line { .. } => Failure::usage(message),
        ImportError::Input(_) | ImportError::Journal(_) => Failure::new(message),
    }
}

async fn inspect(arguments: &InspectArguments) -> Result<u8, Failure> {
    let answer = match arguments.which.target()? {
        Target::Offline(dir) => value(&at(dir)?.inspect().await?),
        Target::Running(api) => api.json(api.request(Method::GET, &api.url("/api/admin/journal"))).await?,
    };
    print_line(&if arguments.json { answer.to_string() } else { print::inspection(&answer) })?;
    Ok(0)
}

async fn verify(arguments: &InspectArguments) -> Result<u8, Failure> {
    let answer = match arguments.which.target()? {
        Target::Offline(dir) => value(&at(dir)?.verify()?),
        Target::Running(api) => api.json(api.post("/api/admin/journal/verify", "")).await?,
    };
    print_line(&if arguments.json { answer.to_string() } else { print::verified(&answer) })?;
    Ok(if answer["damaged"] == Value::Bool(true) { EXIT_DAMAGED } else { 0 })
}

async fn compact(arguments: &InspectArguments) -> Result<u8, Failure> {
    let answer = match arguments.which.target()? {
        Target::Offline(dir) => value(&journal::compact(dir).await.map_err(|error| refused(error, dir, CONNECT))?),
        Target::Running(api) => api.json(api.post("/api/admin/journal/compact", "")).await?,
    };
    let text = || format!("{} bytes on the disk before, {} after", answer["bytesBefore"], answer["bytesAfter"]);
    print_line(&if arguments.json { answer.to_string() } else { text() })?;
    Ok(0)
}

fn repair(arguments: &RepairArguments) -> Result<u8, Failure> {
    let Target::Offline(dir) = arguments.which.target()? else {
        return Err(Failure::usage(
            "a journal is repaired while its node is stopped: stop it, and name its `--data-dir`",
        ));
    };
    let offline = OfflineJournal::at(dir).map_err(|error| refused(error, dir, ""))?;
    let repaired = offline.repair(arguments.dry_run).map_err(|error| beyond_repair(&error, dir))?;
    if arguments.json {
        print_line(&value(&repaired).to_string())?;
    } else {
        let nothing = || "the journal is not damaged; nothing was changed".to_owned();
        print_line(
            &repaired.as_ref().map_or_else(nothing, |repaired: &Repaired| print::repaired(repaired, arguments.dry_run)),
        )?;
    }
    Ok(0)
}

// === impl Which ===

impl Which {
    /// The given directory, else the node of `--url`, `MILLSTREAM_URL` or the default URL.
    fn target(&self) -> Result<Target<'_>, Failure> {
        match &self.data_dir {
            Some(dir) => Ok(Target::Offline(dir)),
            None => Ok(Target::Running(Box::new(Api::new(&self.node)?))),
        }
    }
}

fn at(dir: &Path) -> Result<OfflineJournal, Failure> {
    OfflineJournal::at(dir).map_err(|error| refused(error, dir, CONNECT))
}

/// An error of a directory that cannot be opened. `instead` is what the user can do while a node uses it.
fn refused(error: OpenError, dir: &Path, instead: &str) -> Failure {
    match error {
        OpenError::InUse { owner, .. } => Failure::new(format!(
            "the journal in `{}` is in use by process {}; stop that process{instead}",
            dir.display(),
            escape_controls(&owner)
        )),
        error => error.into(),
    }
}

fn beyond_repair(error: &OpenError, dir: &Path) -> Failure {
    match error {
        OpenError::Damaged { what, .. } => Failure {
            message: format!(
                "the journal in `{0}` cannot be read at all: {what}. Nothing was changed. Restore a backup, or move \
                 `{0}/journal` away: the next start then creates an empty one",
                dir.display()
            ),
            code: EXIT_DAMAGED,
        },
        error => Failure::new(format!("{error}; nothing was changed")),
    }
}

fn value(answer: &impl Serialize) -> Value {
    serde_json::to_value(answer).expect("answers are plain data")
}
