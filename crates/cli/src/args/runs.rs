//! `blackstart runs`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::Format;
use super::amounts::{age, size};

/// Look at the history of this host's runs.
///
/// Each run is taken in when it ends; what could not be then is taken in by the next of these commands. The
/// history is one file, `history.db`, in the directory of the runs' state.
#[derive(Debug, Subcommand)]
pub(crate) enum Runs {
    List(RunsList),
    Show(RunsShow),
    Diff(RunsDiff),
    Export(RunsExport),
    Prune(RunsPrune),
}

/// Which runs.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Only runs that deployed this
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) service: Option<String>,

    /// Only runs that began within this time, such as `12h`, `30d` or `8w`
    #[arg(long, value_name = "TIME", value_parser = age)]
    pub(crate) since: Option<Duration>,
}

/// List runs, the latest first.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_RUNS)]
pub(crate) struct RunsList {
    #[command(flatten)]
    pub(crate) which: Which,

    /// No more than so many; 0 for all
    #[arg(long, value_name = "COUNT", default_value = "50")]
    pub(crate) limit: u64,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,
}

/// Show a run: its summary, its report, or its page.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_RUNS)]
pub(crate) struct RunsShow {
    /// Write the report here; may be given more than once
    ///
    /// As `run --report` does: `.json` is for programs, `.html` a page for people.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Vec<PathBuf>,

    /// Draw the graph of this catalog into a page
    #[arg(long, value_name = "DIR", requires = "report")]
    pub(crate) catalog: Option<PathBuf>,

    /// How to show the result (on standard output)
    ///
    /// `human` is the summary that the run ended with, `json` its report, byte by byte.
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// The run: its id, the beginning or the end of one, or `latest`
    #[arg(value_name = "RUN")]
    pub(crate) run: String,
}

/// Say what a run reached for, looked up and executed that earlier ones did not, and the other way round.
///
/// Of one run: against all earlier runs of its service. New is what none of them had; gone what each of the
/// ten before it had. Of two runs: from the first to the second.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_RUNS)]
pub(crate) struct RunsDiff {
    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// The run, or the first of two: an id, the beginning or the end of one, or `latest`
    #[arg(value_name = "RUN")]
    pub(crate) run: String,

    /// The second
    #[arg(value_name = "RUN")]
    pub(crate) other: Option<String>,
}

/// Write reports as JSON lines: one report in each line, the earliest run first.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_RUNS)]
pub(crate) struct RunsExport {
    #[command(flatten)]
    pub(crate) which: Which,

    /// Write them here instead of on standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Remove runs from the history, with their reports in the directory of the runs' state.
///
/// What is to go is shown, and then removed. Room is given back to the file system.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_RUNS)]
#[group(id = "what", required = true, multiple = true, args = ["older_than", "larger_than"])]
pub(crate) struct RunsPrune {
    /// Remove runs that began longer ago, such as `90d`
    #[arg(long, value_name = "TIME", value_parser = age)]
    pub(crate) older_than: Option<Duration>,

    /// Remove the earliest runs until the history is no larger than this, such as `2GiB`
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) larger_than: Option<u64>,

    /// Only show what would go
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,
}

const AFTER_RUNS: &str = "\
Examples:
    blackstart runs list --service mysql --since 30d
    blackstart runs show latest --report page.html
    blackstart runs diff latest
    blackstart runs export --since 7d >reports.jsonl
    blackstart runs prune --older-than 90d --larger-than 2GiB --dry-run

Exit codes:
  0    done
  1    no such run, or done with a report that could not be taken in: the result is partial
  125  typed wrongly, or the history could not be read or written";
