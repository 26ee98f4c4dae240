//! `journal`: looks at a journal, checks it, repairs it; on a stopped directory, or through the node that uses it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use super::{
    EXIT_DAMAGED, Failure,
    client::{Api, ClientArguments},
    text::{plain, say},
};
use crate::{
    event::Position,
    journal::{self, Export, OfflineJournal, OpenError, Repaired, Unavailable},
    topic::Pattern,
    upstream::Method,
};

mod print;

#[derive(Debug, Subcommand)]
pub(super) enum JournalCommand {
    /// Print events as lines of JSON, in journal order.
    Export(ExportArguments),
    /// Say what there is in the journal.
    Inspect(LookArguments),
    /// Read everything and say what is wrong; exit code 65 if it is damaged.
    Verify(LookArguments),
    /// Keep what can be read of a damaged journal; the node must be stopped.
    Repair(RepairArguments),
    /// Clear away what was deleted.
    Compact(LookArguments),
}

/// Which journal.
#[derive(Args, Debug)]
struct Which {
    /// The data directory of a node that is stopped.
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    node: ClientArguments,
}

#[derive(Args, Debug)]
pub(super) struct LookArguments {
    #[command(flatten)]
    which: Which,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct ExportArguments {
    #[command(flatten)]
    which: Which,
    /// Only events of this topic, or of all that begin so (`order:*`); may be repeated.
    #[arg(long, value_name = "PATTERN")]
    topic: Vec<String>,
    /// Only what comes after this event.
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Most events.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

#[derive(Args, Debug)]
pub(super) struct RepairArguments {
    #[command(flatten)]
    which: Which,
    /// Says what would be kept, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Where the journal is.
enum Target<'a> {
    Offline(&'a Path),
    Running(Box<Api>),
}

pub(super) async fn journal(command: &JournalCommand) -> Result<u8, Failure> {
    match command {
        JournalCommand::Export(arguments) => export(arguments).await,
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
    let position = |text: &String| text.parse::<Position>().map_err(|()| usage("--after", text, "that is no event id"));
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
            Ok(Some(lines)) => match say(lines.trim_end_matches('\n')) {
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
        // Whole lines alone: a part of one is no JSON.
        if let Some(end) = memchr::memrchr(b'\n', &rest) {
            say(&String::from_utf8_lossy(&rest[..end]))?;
            rest.drain(..=end);
        }
    }
    Ok(0)
}

async fn inspect(arguments: &LookArguments) -> Result<u8, Failure> {
    let answer = match arguments.which.target()? {
        Target::Offline(dir) => value(&at(dir)?.inspect().await?),
        Target::Running(api) => api.json(api.request(Method::GET, &api.url("/api/admin/journal"))).await?,
    };
    say(&if arguments.json { answer.to_string() } else { print::inspection(&answer) })?;
    Ok(0)
}

async fn verify(arguments: &LookArguments) -> Result<u8, Failure> {
    let answer = match arguments.which.target()? {
        Target::Offline(dir) => value(&at(dir)?.verify()?),
        Target::Running(api) => api.json(api.post("/api/admin/journal/verify", "")).await?,
    };
    say(&if arguments.json { answer.to_string() } else { print::verified(&answer) })?;
    Ok(if answer["damaged"] == Value::Bool(true) { EXIT_DAMAGED } else { 0 })
}

async fn compact(arguments: &LookArguments) -> Result<u8, Failure> {
    let answer = match arguments.which.target()? {
        Target::Offline(dir) => value(&journal::compact(dir).await.map_err(|error| refused(error, dir))?),
        Target::Running(api) => api.json(api.post("/api/admin/journal/compact", "")).await?,
    };
    let text = || format!("{} bytes on the disk before, {} after", answer["bytesBefore"], answer["bytesAfter"]);
    say(&if arguments.json { answer.to_string() } else { text() })?;
    Ok(0)
}

fn repair(arguments: &RepairArguments) -> Result<u8, Failure> {
    let Target::Offline(dir) = arguments.which.target()? else {
        return Err(Failure::usage(
            "a journal is repaired while its node is stopped: stop it, and name its `--data-dir`",
        ));
    };
    let repaired = at(dir)?.repair(arguments.dry_run).map_err(|error| beyond_repair(&error, dir))?;
    if arguments.json {
        say(&value(&repaired).to_string())?;
    } else {
        let nothing = || "nothing is wrong with the journal; it was left as it is".to_owned();
        say(&repaired
            .as_ref()
            .map_or_else(nothing, |repaired: &Repaired| print::repaired(repaired, arguments.dry_run)))?;
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
    OfflineJournal::at(dir).map_err(|error| refused(error, dir))
}

fn refused(error: OpenError, dir: &Path) -> Failure {
    match error {
        OpenError::InUse { owner, .. } => Failure::new(format!(
            "the journal in `{}` is in use by process {}; stop that one, or ask it with `--url URL`",
            dir.display(),
            plain(&owner)
        )),
        error => error.into(),
    }
}

fn beyond_repair(error: &OpenError, dir: &Path) -> Failure {
    match error {
        OpenError::Damaged { what, .. } => Failure {
            message: format!(
                "the store in `{0}` cannot be opened at all: {what}. Nothing was changed. What remains is a backup, or a \
                 new beginning: move `{0}/journal` away, and the next start makes an empty one",
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
