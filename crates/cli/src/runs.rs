//! `blackstart runs`: what the history has of this host's runs.

mod document;
mod human;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use blackstart_core::history::change::{Changes, Footprint};
use blackstart_core::history::{Ancestry, Past};
use blackstart_core::report::Report;
use blackstart_store::retention::{Limits, plan};
use blackstart_store::{Error, Filter, Found, RunRow, Store};

use crate::args::{self, Format, RunsDiff, RunsExport, RunsList, RunsPrune, RunsShow, Which};
use crate::history::{ago, ask, forget_files};
use crate::html::RunPage;
use crate::layers::Files;
use crate::output::Output;
use crate::plain::plain;
use crate::report_file::{Form, ReportFile};
use crate::summary::Telling;
use crate::whole_file::{Readers, WholeFile};
use crate::{FAILED, answers, diagnostics, finish};

#[cfg(test)]
pub(crate) use document::schemas;

/// No such run.
const UNKNOWN: u8 = 1;
/// What each of so many runs before had, and this one has not, is gone.
const BEFORE: usize = 10;

/// Does what was typed, and says how to exit.
pub(crate) fn runs(typed: &args::Runs, output: Output) -> u8 {
    use args::Runs;
    match typed {
        Runs::List(typed) => ask(output, |store, _| list(typed, store, output)),
        Runs::Show(typed) => show(typed, output),
        Runs::Diff(typed) => ask(output, |store, _| diff(typed, store, output)),
        Runs::Export(typed) => ask(output, |store, _| export(typed, store, output)),
        Runs::Prune(typed) => ask(output, |store, state| prune(typed, store, state, output)),
    }
}

/// The runs that are meant.
pub(crate) fn filter(which: &Which) -> Filter {
    Filter {
        service: which.service.clone(),
        since: which.since.map(ago),
        ..Filter::default()
    }
}

/// The one run that is meant; where there is none, that is told.
fn one(store: &Store, which: &str, output: Output) -> Result<Option<RunRow>, Error> {
    let message = match store.find(which)? {
        Found::One(run) => return Ok(Some(*run)),
        Found::None => format!(
            "no run of the history is called {which}: give an id as `blackstart runs list` shows it, the beginning or the end of one, or `latest`"
        ),
        Found::Several(ids) => format!(
            "several runs are meant by {which}; name one of {}",
            ids.join(", ")
        ),
    };
    output.error(&plain(&message));
    Ok(None)
}

fn list(typed: &RunsList, store: &Store, output: Output) -> Result<u8, Error> {
    let mut filter = filter(&typed.which);
    let total = store.count(&filter)?;
    filter.limit = Some(typed.limit).filter(|limit| *limit != 0);
    let mut rows = Vec::new();
    store.runs(&filter, &mut |row| {
        rows.push(row);
        ControlFlow::Continue(())
    })?;
    Ok(match typed.format {
        Format::Human => finish(
            output,
            &human::list(&rows, total, &typed.which, output.out),
            0,
        ),
        Format::Json => written(output, |out| document::list(&rows, total, out)),
    })
}

/// Shows a result that is written piece by piece.
fn written(output: Output, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> u8 {
    match output.result(fill) {
        Ok(()) => 0,
        Err(error) => {
            output.error(&format!("cannot write to standard output: {error}"));
            FAILED
        }
    }
}

fn show(typed: &RunsShow, output: Output) -> u8 {
    let mut files = Vec::new();
    for path in &typed.report {
        match ReportFile::prepare(path) {
            Ok(file) => files.push(file),
            Err(message) => {
                output.error(&plain(&message));
                return FAILED;
            }
        }
    }
    ask(output, |store, _| match one(store, &typed.run, output)? {
        None => Ok(UNKNOWN),
        Some(run) => show_run(typed, &files, store, &run, output),
    })
}

fn show_run(
    typed: &RunsShow,
    files: &[ReportFile],
    store: &Store,
    run: &RunRow,
    output: Output,
) -> Result<u8, Error> {
    let mut bytes = Vec::new();
    store.report(run, &mut bytes)?;
    let report = match serde_json::from_slice::<Report>(&bytes) {
        Ok(report) => report,
        Err(error) => {
            output.error(&plain(&format!(
                "the report of run {} cannot be read: {error}",
                run.id
            )));
            return Ok(FAILED);
        }
    };
    let mut of_catalog = Files::default();
    let reading = typed
        .catalog
        .as_deref()
        .map(|path| of_catalog.catalog(path));
    let told = diagnostics::human(&of_catalog.diagnostics, &of_catalog.texts, output.err);
    output.say(&told);
    for message in &of_catalog.messages {
        output.warning(&plain(message));
    }
    let page = RunPage {
        report: &report,
        rules: &[],
        catalog: reading.as_ref().map(|reading| &reading.catalog),
        protect: &[],
        whole: &|| report.clone(),
    };
    let mut code = 0;
    for file in files {
        let done = file.write(|out| match file.form() {
            Form::Json => out.write_all(&bytes),
            Form::Html => page.write(out),
        });
        if let Err(error) = done {
            let path = plain(&file.path().to_string_lossy());
            output.error(&format!("cannot write the report to {path}: {error}"));
            code = FAILED;
        }
    }
    let shown = match typed.format {
        Format::Json => written(output, |out| out.write_all(&bytes)),
        Format::Human => {
            let written: Vec<String> = files
                .iter()
                .map(|file| file.path().to_string_lossy().into_owned())
                .collect();
            let telling = Telling {
                report: &report,
                rules: &[],
                explained: None,
                written: if code == 0 { &written } else { &[] },
                paint: output.out,
            };
            finish(output, &telling.text(), 0)
        }
    };
    Ok(code.max(shown))
}

/// What a run is compared with.
enum Earlier {
    /// Another one.
    Run(Box<RunRow>),
    /// All of the same sort that its service had before; how many others there were.
    All { runs: u64, passed_over: u64 },
}

fn diff(typed: &RunsDiff, store: &Store, output: Output) -> Result<u8, Error> {
    let Some(first) = one(store, &typed.run, output)? else {
        return Ok(UNKNOWN);
    };
    let (earlier, run, changes) = match &typed.other {
        Some(other) => {
            let Some(second) = one(store, other, output)? else {
                return Ok(UNKNOWN);
            };
            let before = footprint(store, &first)?;
            let changes = Changes::between(&before, &before, &footprint(store, &second)?);
            (Earlier::Run(Box::new(first)), second, changes)
        }
        None => {
            let Some(service) = first.service.clone() else {
                output.error(&format!(
                    "run {} does not say what it deployed (--service NAME), so that there are no earlier runs to compare it with; name two runs",
                    first.id
                ));
                return Ok(UNKNOWN);
            };
            let (earlier, changes) = since_ever(store, &first, service)?;
            (earlier, first, changes)
        }
    };
    let compared = document::Compared {
        earlier: &earlier,
        run: &run,
        changes: &changes,
    };
    let text = match typed.format {
        Format::Human => human::diff(&compared, output.out),
        Format::Json => answers::printed(&compared.document()),
    };
    Ok(finish(output, &text, 0))
}

fn footprint(store: &Store, run: &RunRow) -> Result<Footprint, Error> {
    let past = store.past(run, &mut Ancestry::default())?;
    Ok(Footprint::of(&past, store.executables(run)?))
}

/// A run against those of its own sort that its service had before it: deployments, or what was attached to. A drill takes
/// other ways than a deployment, so that it is compared with deployments, and none is compared with it.
fn since_ever(store: &Store, run: &RunRow, service: String) -> Result<(Earlier, Changes), Error> {
    let filter = Filter {
        service: Some(service),
        before: Some(run.started),
        ..Filter::default()
    };
    let attached = is_attached(run);
    let mut ever = Footprint {
        executables: store.executables_of(&filter, attached)?,
        ..Footprint::default()
    };
    let (mut runs, mut passed_over) = (0, 0);
    store.pasts(&filter, &mut Ancestry::default(), &mut |past: &Past, _| {
        if past.attached == attached && !past.drill {
            runs += 1;
            ever.add(Footprint::of(past, BTreeSet::new()));
        } else {
            passed_over += 1;
        }
        ControlFlow::Continue(())
    })?;
    // Only who was seen as a whole did not reach for what is not there.
    let mut whole = Vec::new();
    store.runs(&filter, &mut |row| {
        if is_attached(&row) == attached && !row.drill && row.lacks.is_empty() {
            whole.push(row);
        }
        match whole.len() {
            BEFORE => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    })?;
    let mut always: Option<Footprint> = None;
    for row in &whole {
        let before = footprint(store, row)?;
        match &mut always {
            Some(always) => always.retain(&before),
            none => *none = Some(before),
        }
    }
    let now = footprint(store, run)?;
    let changes = Changes::between(&ever, &always.unwrap_or_default(), &now);
    Ok((Earlier::All { runs, passed_over }, changes))
}

/// Of what was attached to: it has no command.
fn is_attached(run: &RunRow) -> bool {
    run.command.is_empty()
}

fn export(typed: &RunsExport, store: &Store, output: Output) -> Result<u8, Error> {
    let mut rows = Vec::new();
    store.runs(&filter(&typed.which), &mut |row| {
        rows.push(row);
        ControlFlow::Continue(())
    })?;
    rows.reverse();
    // The database has the last word, in whatever was written so far.
    let mut failed = None;
    let mut fill = |out: &mut dyn Write| -> io::Result<()> {
        for row in &rows {
            let mut line = Line { out: &mut *out };
            if let Err(error) = store.report(row, &mut line) {
                let text = error.to_string();
                failed = Some(error);
                return Err(io::Error::other(text));
            }
            out.write_all(b"\n")?;
        }
        Ok(())
    };
    let done = match &typed.out {
        None => output.result(&mut fill),
        Some(path) => WholeFile::at(path, Readers::Owner).and_then(|file| file.replace(&mut fill)),
    };
    match (done, failed) {
        (Ok(()), _) => Ok(0),
        (Err(_), Some(error)) => Err(error),
        (Err(error), None) => {
            let place = typed.out.as_deref().map_or_else(
                || "standard output".to_owned(),
                |path| path.display().to_string(),
            );
            output.error(&plain(&format!(
                "cannot write the reports to {place}: {error}"
            )));
            Ok(FAILED)
        }
    }
}

/// A document in one line: in JSON, a line feed stands between things only.
struct Line<'a> {
    out: &'a mut dyn Write,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split(|byte| matches!(byte, b'\n' | b'\r')) {
            self.out.write_all(piece)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn prune(typed: &RunsPrune, store: &mut Store, state: &Path, output: Output) -> Result<u8, Error> {
    let limits = Limits {
        began_before: typed.older_than.map(ago),
        most_bytes: typed.larger_than,
    };
    let plan = plan(store.kept()?, store.size()?, limits);
    let told = |after| match typed.format {
        Format::Human => human::prune(&plan, after),
        Format::Json => answers::printed(&document::Pruned::of(&plan, after)),
    };
    if typed.dry_run {
        return Ok(finish(output, &told(None), 0));
    }
    if !store.writable() {
        output.error("the history cannot be written, so that nothing can be removed from it");
        return Ok(FAILED);
    }
    store.remove(&plan)?;
    // The files go as well: the next command would take them in again.
    let ids: BTreeSet<&str> = plan.remove.iter().map(|(run, _)| run.id.as_str()).collect();
    forget_files(state, &ids, output);
    let after = store.size()?;
    Ok(finish(output, &told(Some(after)), 0))
}
