//! `memsensor history`: state, weight and signals by steps of time.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Result, bail};

use super::part::{self, DirArg, Range, WrongOptions};
use crate::history::{
    output::{self, Form},
    series::{MAX_STEPS, series},
};

/// Shortest step: looks are not more frequent.
const MIN_STEP: Duration = Duration::from_millis(100);
/// Steps of which one is chosen if none is given.
const STEPS: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_mins(1),
    Duration::from_mins(10),
    Duration::from_hours(1),
    Duration::from_hours(24),
];
/// Lines of a table that a person reads.
const MAX_LINES: u128 = 120;

/// Options of `memsensor history`.
#[derive(Debug, clap::Args)]
pub struct HistoryArgs {
    /// Begin: a time in UTC such as "2026-11-28 03:12", "03:12" or "yesterday", or so long ago, such
    /// as 2h
    #[arg(long, value_name = "TIME", default_value = "1h")]
    since: String,
    /// End, likewise
    #[arg(long, value_name = "TIME", default_value = "now")]
    until: String,
    /// Length of a step, of which the worst is shown; at least 100ms [default: for at most 120 steps]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    step: Option<Duration>,
    /// The form of the output.
    #[command(flatten)]
    form: FormArgs,
    /// The record.
    #[command(flatten)]
    dir: DirArg,
}

/// The form of the output; a table without any.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(multiple = false)]
pub struct FormArgs {
    /// Print one JSON object per scope and step
    #[arg(long)]
    json: bool,
    /// Print CSV
    #[arg(long)]
    csv: bool,
    /// Print OpenMetrics with times, for `promtool tsdb create-blocks-from openmetrics`
    #[arg(long)]
    openmetrics: bool,
}

impl FormArgs {
    const fn form(self) -> Form {
        match self {
            Self { json: true, .. } => Form::Json,
            Self { csv: true, .. } => Form::Csv,
            Self { openmetrics: true, .. } => Form::OpenMetrics,
            _ => Form::Text,
        }
    }
}

/// What was asked for, as text.
pub fn read(args: &HistoryArgs) -> Result<String> {
    let range = Range::parse(&args.since, &args.until, SystemTime::now())?;
    let step = step(args.step, range)?;
    text(&args.dir.dir, range, step, args.form.form())
}

fn text(dir: &Path, range: Range, step: Duration, form: Form) -> Result<String> {
    let timeline = part::read(dir, range)?;
    let step_ns = i64::try_from(step.as_nanos()).unwrap_or(i64::MAX);
    let Some(series) = series(&timeline, step_ns) else {
        let step = humantime::format_duration(step);
        let message = format!("more than {MAX_STEPS} steps of {step}: choose a longer --step");
        return Err(anyhow::anyhow!(message).context(WrongOptions));
    };
    if series.is_empty() && form == Form::Text {
        return Ok("nothing was recorded between these times\n".to_owned());
    }
    Ok(output::write(form, &series, &timeline.schema))
}

fn step(given: Option<Duration>, range: Range) -> Result<Duration> {
    if let Some(step) = given {
        if step < MIN_STEP {
            let message = format!("--step {}: less than 100ms", humantime::format_duration(step));
            return Err(anyhow::anyhow!(message).context(WrongOptions));
        }
        return Ok(step);
    }
    let length = u128::from(range.until.abs_diff(range.since));
    let fits = |step: &&Duration| length / step.as_nanos() <= MAX_LINES;
    let Some(step) = STEPS.iter().find(fits).or(STEPS.last()) else { bail!("no step") };
    Ok(*step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_fits_the_time() {
        let range = |seconds: i64| Range { since: 0, until: seconds * 1_000_000_000 };
        for (seconds, expected) in
            [(60, 1), (1200, 10), (3600, 60), (86_400, 3600), (i64::MAX / 1_000_000_000, 86_400)]
        {
            let chosen = step(None, range(seconds)).expect("a step");
            assert_eq!(chosen, Duration::from_secs(expected), "{seconds}");
        }
        assert_eq!(step(Some(MIN_STEP), range(1)).expect("given"), MIN_STEP);
        let error = step(Some(Duration::from_millis(99)), range(1)).expect_err("too short");
        assert_eq!(
            format!("{error:#}").lines().last(),
            Some("command line: --step 99ms: less than 100ms")
        );
    }
}
