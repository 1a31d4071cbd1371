//! `memsensor postmortem`: what happened, why, and what to do, from a record.

use std::{path::PathBuf, time::SystemTime};

use anyhow::{Context as _, Result, anyhow};
use clap::ValueEnum;
use sensor_core::{common::text::Sentence, verdict::policy::Policy};

use super::part::{self, Range, WrongOptions};
use crate::postmortem::{document, incident::Wanted, report::report};

/// How far back the last incident is looked for, if no time is given.
const DEFAULT_SINCE: &str = "7d";

/// The form of a postmortem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Markdown
    Md,
    /// One page of HTML with charts, which needs no other file
    Html,
    /// JSON
    Json,
}

/// Options of `memsensor postmortem`.
#[derive(Debug, clap::Args)]
pub struct PostmortemArgs {
    /// Begin of the time to report on as one incident: a time in UTC such as "2026-11-28 03:12",
    /// "03:12" or "yesterday", or so long ago, such as 2h [default: the last incident of seven days]
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// End, likewise
    #[arg(long, value_name = "TIME", default_value = "now")]
    until: String,
    /// The incident with this event, by its id as printed by `events`
    #[arg(long, value_name = "ID", conflicts_with = "since")]
    event: Option<String>,
    /// Directory of a record, or of a copy of it from another host; repeat the option for more hosts
    #[arg(long, value_name = "PATH", default_value = "/var/lib/memsensor")]
    dir: Vec<PathBuf>,
    /// Format
    #[arg(long, value_enum, default_value = "md")]
    format: Format,
}

/// The postmortem as text: one after the other, if there are several hosts.
pub fn read(args: &PostmortemArgs) -> Result<String> {
    if args.format == Format::Html && args.dir.len() > 1 {
        let message = "--format html has one host: run it once for each --dir";
        return Err(anyhow!(message).context(WrongOptions));
    }
    let parts = args.dir.iter().map(|dir| {
        let since = args.since.as_deref().unwrap_or(DEFAULT_SINCE);
        let range = Range::parse(since, &args.until, SystemTime::now())?;
        let timeline = part::read(dir, range)?;
        let wanted = match (&args.event, &args.since) {
            (Some(id), _) => Wanted::Event(id),
            (None, Some(_)) => Wanted::Whole,
            (None, None) => Wanted::Last,
        };
        let report = report(&timeline, wanted, &Policy::default()).with_context(|| {
            let dir = dir.display().to_string();
            let what = args.event.as_ref().map_or_else(
                || "all weight at all times, no kill and no silence".to_owned(),
                |id| format!("no event {id:?} in an incident"),
            );
            format!("{}: no incident between these times: {what}", Sentence(&dir))
        })?;
        Ok(match args.format {
            Format::Md => document::markdown(&report),
            Format::Html => document::page(&report),
            Format::Json => serde_json::to_string(&report)? + "\n",
        })
    });
    Ok(parts.collect::<Result<Vec<_>>>()?.join("\n"))
}
