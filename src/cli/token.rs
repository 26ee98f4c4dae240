//! `token`: creates static tokens, and shows the content of tokens.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::{Args, Subcommand};

use super::{Failure, text::print_line};
use crate::{
    access::{self, jwt},
    telemetry,
};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Create a token. Prints the token to stdout, and the settings section with its hash to stderr.
    Make(MakeArguments),
    /// Read a token from stdin and print its hash, and its claims if it is a JWT. Nothing is verified.
    Inspect,
}

#[derive(Args, Debug)]
pub(super) struct MakeArguments {
    /// Name of the token in logs.
    #[arg(long)]
    name: String,
    /// User of the token; default: its name.
    #[arg(long)]
    user: Option<String>,
    /// Group of the user; may be repeated.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Topic, or prefix with a trailing `*`, for publishing; may be repeated.
    #[arg(long, value_name = "TOPIC")]
    publish: Vec<String>,
    /// Topic, or prefix with a trailing `*`, for subscribing; may be repeated.
    #[arg(long, value_name = "TOPIC")]
    subscribe: Vec<String>,
    /// Permit submitting jobs.
    #[arg(long)]
    jobs: bool,
    /// Remote that may be used, `*` for all; may be repeated.
    #[arg(long = "remote", value_name = "REMOTE")]
    remotes: Vec<String>,
    /// Permit everything.
    #[arg(long)]
    admin: bool,
    /// Append the section to this settings file instead of printing it.
    #[arg(long, value_name = "FILE")]
    append: Option<PathBuf>,
}

/// Runs a command.
pub(super) fn token(command: &TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Make(arguments) => make(arguments),
        TokenCommand::Inspect => inspect(),
    }
}

fn make(arguments: &MakeArguments) -> Result<(), Failure> {
    let token = format!("ms_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let list = |texts: &[String]| texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
    let mut section = format!("[[access.tokens]]\nname = {}\n", quoted(&arguments.name));
    section += &format!("sha256 = \"{}\"\n", access::digest(&token));
    if let Some(user) = &arguments.user {
        section += &format!("user = {}\n", quoted(user));
    }
    let lists = [
        ("groups", &arguments.groups),
        ("publish", &arguments.publish),
        ("subscribe", &arguments.subscribe),
        ("remotes", &arguments.remotes),
    ];
    for (key, texts) in lists.iter().filter(|(_, texts)| !texts.is_empty()) {
        section += &format!("{key} = [{}]\n", list(texts));
    }
    for (key, _) in [("jobs", arguments.jobs), ("admin", arguments.admin)].iter().filter(|(_, given)| *given) {
        section += &format!("{key} = true\n");
    }
    // Report errors now that would prevent the next start.
    crate::config::Config::parse(&format!("[access]\nmode = \"token\"\n{section}"), "the new token")?;
    match &arguments.append {
        Some(file) => append(file, &section)?,
        None => telemetry::print_notice(&format!(
            "Add this section to the settings of a node in token mode (`[access] mode = \"token\"`), and apply it with `kill -HUP`. \
             The token is not shown again.\n\n{}",
            section.trim_end()
        )),
    }
    let covers_all = |text: &String| text == "*" || text == "all";
    if !arguments.admin && !arguments.subscribe.iter().any(covers_all) {
        telemetry::print_notice("\nIt receives no broadcasts: `--subscribe all` adds them.");
    }
    print_line(&token)
}

/// Appends the section to an existing settings file, separated by a blank line.
fn append(file: &Path, section: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot append to {}: {error}", file.display()));
    let before = std::fs::read_to_string(file).map_err(failed)?;
    let gap = if before.is_empty() || before.ends_with('\n') { "\n" } else { "\n\n" };
    let mut settings = std::fs::OpenOptions::new().append(true).open(file).map_err(failed)?;
    std::io::Write::write_all(&mut settings, format!("{gap}{section}").as_bytes()).map_err(failed)
}

fn inspect() -> Result<(), Failure> {
    let unread = |error| Failure::new(format!("cannot read stdin: {error}"));
    let text = std::io::stdin().lines().next().transpose().map_err(unread)?.unwrap_or_default();
    let token = text.trim();
    if token.is_empty() {
        return Err(Failure::usage("stdin has no token; try `echo \"$TOKEN\" | millstream token inspect`"));
    }
    let displayed = if jwt::has_jwt_form(token) {
        let header = jwt::peek(token).map_err(|why| Failure::new(format!("the token is not acceptable: {why}")))?;
        let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims = claims.and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok());
        serde_json::json!({ "kind": "jwt", "header": header, "claims": claims, "checked": false })
    } else {
        serde_json::json!({ "kind": "static", "sha256": access::digest(token) })
    };
    print_line(&serde_json::to_string_pretty(&displayed).expect("plain data"))
}
