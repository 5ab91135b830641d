//! What `runs` tells people.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use blackstart_core::history::time_text;
use blackstart_core::policy::memory_text;
use blackstart_core::report::Guarded;
use blackstart_store::RunRow;
use blackstart_store::retention::{Plan, Why};

use super::Earlier;
use super::document::Compared;
use crate::args::Which;
use crate::html::{day_and_time, length_text};
use crate::plain::{Paint, cut, plain};
use crate::summary::counted;

const WIDEST: usize = 24;
/// How many of a kind are shown where only the number matters.
const SHOWN: usize = 10;

/// A table, a run in each line.
pub(super) fn list(rows: &[RunRow], total: u64, which: &Which, paint: Paint) -> String {
    if rows.is_empty() {
        return match (&which.service, which.since) {
            (None, None) => {
                "no run has ended on this host yet, or none could keep its state\n".to_owned()
            }
            _ => "no such run in the history\n".to_owned(),
        };
    }
    let head = [
        "started (UTC)",
        "service",
        "host",
        "exit",
        "took",
        "reached",
        "refused",
        "",
        "run",
    ]
    .map(str::to_owned);
    let lines: Vec<[String; 9]> = rows.iter().map(line).collect();
    let mut widths = head.clone().map(|cell| cell.chars().count());
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let mut write = |cells: &[String; 9], bold: bool| {
        let padded = cells.iter().zip(widths).filter(|(_, width)| *width > 0);
        let padded: Vec<String> = padded
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let text = padded.join("  ");
        let text = text.trim_end();
        let _ = writeln!(
            out,
            "{}",
            if bold {
                paint.bold(text)
            } else {
                text.to_owned()
            }
        );
    };
    write(&head, true);
    for line in &lines {
        write(line, false);
    }
    let more = total.saturating_sub(rows.len() as u64);
    if more > 0 {
        let _ = writeln!(out, "… and {more} more; --limit 0 shows all");
    }
    out
}

fn line(row: &RunRow) -> [String; 9] {
    let mut remarks = Vec::new();
    let mut remark = |text: &str| remarks.push(text.to_owned());
    match &row.target {
        Some(target) => remark(&format!("attached to {}", cut(&plain(target), WIDEST))),
        None if row.command.is_empty() => remark("attached"),
        None => {}
    }
    if row.drill {
        remark("drill");
    }
    if row.break_glass {
        remark("broken glass");
    }
    match row.guarded {
        Guarded::Yes if row.ended.is_none() => remark("goes on"),
        Guarded::Yes if row.lacks.is_empty() => {}
        Guarded::Yes | Guarded::Partly => remark("incomplete"),
        Guarded::No => remark("unguarded"),
    }
    let refused = match (row.refused, row.would_be_refused) {
        (refused, 0) => refused.to_string(),
        (0, would) => format!("(would: {would})"),
        (refused, would) => format!("{refused} (would: {would})"),
    };
    [
        moment(row),
        row.service
            .as_deref()
            .map_or("-".to_owned(), |service| cut(&plain(service), WIDEST)),
        cut(&plain(&row.host), WIDEST),
        row.exit_code
            .map_or("?".to_owned(), |code| code.to_string()),
        row.ended.map_or("?".to_owned(), |ended| {
            length_text(ended.saturating_sub(row.started))
        }),
        row.destinations.to_string(),
        refused,
        remarks.join(", "),
        plain(&row.id),
    ]
}

fn moment(row: &RunRow) -> String {
    day_and_time(&time_text(row.started))
}

/// What is new, and what is gone.
pub(super) fn diff(compared: &Compared<'_>, paint: Paint) -> String {
    let run = compared.run;
    let service = |row: &RunRow| {
        row.service
            .as_deref()
            .map_or(String::new(), |service| format!(" of {}", plain(service)))
    };
    let mut out = String::new();
    let _ = match compared.earlier {
        Earlier::Run(before) => writeln!(
            out,
            "from run {}{}, {}\n  to run {}{}, {}",
            plain(&before.id),
            service(before),
            moment(before),
            plain(&run.id),
            service(run),
            moment(run)
        ),
        Earlier::All { runs: 0, .. } => writeln!(
            out,
            "run {}{}, {}, is the first of its kind in the history",
            plain(&run.id),
            service(run),
            moment(run)
        ),
        Earlier::All { runs, .. } => writeln!(
            out,
            "run {}{}, {}, against {} before it",
            plain(&run.id),
            service(run),
            moment(run),
            counted(*runs, "run")
        ),
    };
    if let Earlier::All { passed_over, .. } = compared.earlier
        && *passed_over > 0
    {
        let others = match run.command.is_empty() {
            true => "drills and deployments",
            false => "drills and what was attached to",
        };
        let _ = writeln!(out, "{} left out: {others}", counted(*passed_over, "run"));
    }
    let changes = compared.changes;
    if !run.lacks.is_empty() && !changes.gone.is_empty() {
        let why = plain(&run.lacks.join("; "));
        let _ = writeln!(out, "what is gone may be there all the same: {why}");
    }
    if changes.is_empty() {
        out.push_str("nothing new, and nothing gone\n");
    }
    let pairs = [
        (
            "destinations",
            &changes.new.destinations,
            &changes.gone.destinations,
        ),
        ("names looked up", &changes.new.names, &changes.gone.names),
        (
            "executables",
            &changes.new.executables,
            &changes.gone.executables,
        ),
    ];
    for (what, new, gone) in pairs {
        if new.is_empty() && gone.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n{}", paint.bold(what));
        lines(&mut out, "+", new, |text| paint.doubtful(text));
        lines(&mut out, "-", gone, str::to_owned);
    }
    out
}

fn lines(out: &mut String, sign: &str, these: &BTreeSet<String>, paint: impl Fn(&str) -> String) {
    for it in these {
        let _ = writeln!(out, "  {}", paint(&format!("{sign} {}", plain(it))));
    }
}

/// What goes or went; `after` is the size once it is done.
pub(super) fn prune(plan: &Plan, after: Option<u64>) -> String {
    let would = if after.is_some() {
        "removed"
    } else {
        "would remove"
    };
    let mut out = String::new();
    let of = |wanted: Why| plan.remove.iter().filter(|(_, why)| *why == wanted).count() as u64;
    let causes = [(of(Why::Age), "too old"), (of(Why::Size), "to make room")];
    let causes: Vec<String> = causes
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{count} {why}"))
        .collect();
    if plan.remove.is_empty() {
        let _ = writeln!(
            out,
            "nothing to remove: {} in {}",
            counted(plan.keep, "run"),
            memory_text(plan.bytes)
        );
        return out;
    }
    let _ = writeln!(
        out,
        "{would} {} ({}); {} of {} {} {}",
        counted(plan.remove.len() as u64, "run"),
        causes.join(", "),
        plan.keep,
        plan.keep + plan.remove.len() as u64,
        if after.is_some() {
            "stay, in"
        } else {
            "would stay, in about"
        },
        memory_text(after.unwrap_or(plan.bytes_after)),
    );
    for (run, _) in plan.remove.iter().take(SHOWN) {
        let _ = writeln!(
            out,
            "  {}  {}",
            day_and_time(&time_text(run.started)),
            plain(&run.id)
        );
    }
    let more = plan.remove.len().saturating_sub(SHOWN);
    if more > 0 {
        let _ = writeln!(out, "  … and {more} more; --format json has them");
    }
    out
}
