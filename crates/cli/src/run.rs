//! `blackstart run`: from what was typed to an exit code.

use std::cell::OnceCell;
use std::io;
use std::path::Path;

use blackstart_core::explain::{Question, explain};
use blackstart_core::policy::Rule;
use blackstart_core::report::Told;
use blackstart_core::tables::Tables;
use blackstart_guard::{AtEnd, Ended, GivenPolicy, Notice, Refusal, Request};

use crate::FAILED;
use crate::agent::{self, Called};
use crate::args::{self, Format, Leftover};
use crate::diagnostics;
use crate::history;
use crate::html::RunPage;
use crate::live;
use crate::lock_file::LockFile;
use crate::meanwhile::Meanwhile;
use crate::notify;
use crate::output::Output;
use crate::plain::plain;
use crate::report_file::Form;
use crate::resolve::{self, Order, Problem, Surroundings};
use crate::summary::Telling;

/// Runs it, tells about it, and says how to exit.
pub(crate) fn run(typed: args::Run, output: Output) -> u8 {
    match agent::called(&typed, output) {
        Called::Agent(agent, socket) => return agent::run(typed, agent, &socket, output),
        Called::Nobody => {}
        Called::InVain => return FAILED,
    }
    match resolve::run(typed, &Surroundings::of_caller()) {
        Ok(order) => carry_out(&order, output, blackstart_guard::run),
        Err(problems) => {
            show_all(&problems, output);
            FAILED
        }
    }
}

/// Attaches to what is there already, tells about it, and says how to exit.
pub(crate) fn attach(typed: args::Attach, output: Output) -> u8 {
    match resolve::attach(typed, &Surroundings::of_caller()) {
        Ok((order, attaching)) => carry_out(&order, output, |request, notice| {
            blackstart_guard::attach(request, &attaching, notice)
        }),
        Err(problems) => {
            show_all(&problems, output);
            FAILED
        }
    }
}

/// Guards what `order` is about, by way of `guard`.
pub(crate) fn carry_out(
    order: &Order,
    output: Output,
    guard: impl FnOnce(&Request, &mut dyn FnMut(Notice)) -> Result<Ended, Refusal>,
) -> u8 {
    if !order.overlooked.is_empty() {
        show_all(&order.overlooked, output);
        output.warning("the glass is broken: the command runs in spite of what is said above");
    }
    if let Some(effective) = &order.policy {
        output.say(&diagnostics::human(
            &effective.warnings,
            &effective.texts,
            output.err,
        ));
        for remark in &effective.remarks {
            output.warning(&plain(remark));
        }
    }
    if let Some(files) = &order.of_catalog {
        output.say(&diagnostics::human(
            &files.diagnostics,
            &files.texts,
            output.err,
        ));
        for message in &files.messages {
            output.warning(&plain(message));
        }
    }
    if let Some(remark) = order.lock.as_ref().and_then(LockFile::remark) {
        output.warning(&plain(remark));
    }
    for remark in &order.remarks {
        output.warning(&plain(remark));
    }
    let rules = order
        .policy
        .as_ref()
        .map_or(&[][..], |effective| &effective.policy.rules);
    let telling = live::Telling {
        quiet: order.quiet,
        paint: output.err,
    };
    let mut adopted = Vec::new();
    let mut meanwhile = None;
    let mut notice = |notice: Notice| {
        if let Some(line) = live::line(&notice, telling) {
            output.say(&line);
        }
        match notice {
            Notice::Adopted(report) => adopted.push(report),
            Notice::Under(dir) => meanwhile = Some(Meanwhile::begin(order, dir)),
            _ => {}
        }
    };
    // What nobody else may change; that the run's own state is not there is told.
    let state = match blackstart_guard::is_trusted(&order.state) {
        Ok(()) => order.state.as_path(),
        Err(_) => Path::new(blackstart_guard::SPARE),
    };
    blackstart_guard::keep_memory_together();
    let id = blackstart_guard::new_id();
    order.telling.keep(state, &id);
    let result = guard(&request(order, &id), &mut notice);
    drop(meanwhile);
    for report in adopted {
        notify::tell_of_adopted(&report, state, output);
    }
    let code = match result {
        Ok(ended) => {
            let rules = ended
                .reloaded
                .as_ref()
                .map_or(rules, |policy| &policy.rules);
            let code = tell(order, &ended, rules, output);
            order.telling.tell(&ended.report, state, output);
            order.telling.let_go(state, &id, ended.finished);
            let record = ended.record.clone().filter(|_| ended.finished);
            // What is told is told: from here on its room is needed for something else.
            drop(ended);
            blackstart_guard::give_back_memory();
            if let Some(report) = record.filter(|_| state == order.state) {
                history::keep(state, &report, output);
            }
            code
        }
        Err(refusal) => {
            order.telling.let_go(state, &id, true);
            output.error(&plain(&refusal.to_string()));
            refusal.exit_code()
        }
    };
    // Also where nothing ran: an earlier run's end may have been found.
    notify::send_what_is_due(state);
    code
}

/// The order in the guard's terms.
fn request(order: &Order, id: &str) -> Request {
    Request {
        id: Some(id.to_owned()),
        command: order.command.clone(),
        env: std::env::vars_os().collect(),
        policy: order.policy.as_ref().map(|effective| GivenPolicy {
            policy: effective.policy.clone(),
            source: effective.source.clone(),
        }),
        redaction: order.redaction.clone(),
        service: order.service.clone(),
        mode: Some(order.mode),
        leftover: order.leftover.map(|typed| match typed {
            Leftover::Release => AtEnd::Release,
            Leftover::Kill => AtEnd::Kill,
            Leftover::Keep => AtEnd::Keep,
            Leftover::Wait => AtEnd::Wait,
        }),
        accept_gaps: order.accept_gaps.clone(),
        contain: order.contain,
        hide_sockets: order.hide_sockets,
        concurrent: order.concurrent,
        break_glass: order.break_glass.clone(),
        drill: order.drill.clone(),
        lock: order.lock.as_ref().map(LockFile::order),
        catalog: order.catalog.clone(),
        origin: order.origin.clone(),
        state_dir: order.state.clone(),
    }
}

/// Writes the report where it was asked for, and shows what is to be shown. Nothing that fails here
/// changes the exit code: the command has run, and its result is its own.
fn tell(order: &Order, ended: &Ended, rules: &[Rule], output: Output) -> u8 {
    let mut written = Vec::new();
    let mut unwritten = false;
    for file in &order.reports {
        match file.write(|out| fill(order, ended, rules, file.form(), out)) {
            Ok(()) => written.push(file.path().to_string_lossy().into_owned()),
            Err(error) => {
                unwritten = true;
                let path = plain(&file.path().to_string_lossy());
                output.warning(&format!(
                    "cannot write the report to {path}: {error}; here it is instead"
                ));
            }
        }
    }
    if unwritten {
        output.instead(|out| document(&ended.report, out));
    }
    if written.is_empty()
        && let Some(record) = &ended.record
    {
        written.push(record.to_string_lossy().into_owned());
    }
    if let (Some(file), Some(lock)) = (&order.lock, &ended.lock) {
        match file.update(lock, &ended.report, ended.exit_code) {
            Ok(None) => {}
            Ok(Some(done)) => output.say(&format!("blackstart: {}\n", plain(&done))),
            Err(why) => output.warning(&plain(&why)),
        }
    }
    match order.format {
        Format::Json => {
            if let Err(error) = output.result(|out| document(&ended.report, out)) {
                output.warning(&format!(
                    "cannot write the report to standard output: {error}"
                ));
            }
        }
        Format::Human => {
            // What another policy judged meanwhile is not this one's.
            let only = order.policy.as_ref().filter(|_| ended.reloaded.is_none());
            let tables = OnceCell::new();
            let explained = |asked: &Question| {
                let compiled = || resolve::compiled(only?).ok();
                let tables: &Option<Tables> = tables.get_or_init(compiled);
                Some(explain(&only?.policy, tables.as_ref()?, asked))
            };
            let telling = Telling {
                report: &ended.report,
                rules,
                explained: Some(&explained),
                written: &written,
                paint: output.err,
            };
            output.say(&telling.text());
        }
    }
    u8::try_from(ended.exit_code).unwrap_or(FAILED)
}

/// The report in the form that its file's name asks for.
fn fill(
    order: &Order,
    ended: &Ended,
    rules: &[Rule],
    form: Form,
    out: &mut dyn io::Write,
) -> io::Result<()> {
    match form {
        Form::Json => document(&ended.report, out),
        Form::Html => RunPage {
            report: &ended.report,
            rules,
            catalog: order.catalog.as_deref(),
            protect: order
                .policy
                .as_ref()
                .map_or(&[][..], |it| &it.policy.protect),
            whole: &|| ended.report.to_report(),
        }
        .write(out),
    }
}

/// The report as it is written: made entry by entry, since a long run's is larger than all else that we hold.
fn document(report: &Told, out: &mut dyn io::Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    out.write_all(b"\n")
}

/// Shows everything that is wrong.
pub(crate) fn show_all(problems: &[Problem], output: Output) {
    problems.iter().for_each(|problem| show(problem, output));
}

fn show(problem: &Problem, output: Output) {
    match problem {
        Problem::Message(message) => output.error(&plain(message)),
        Problem::Policy { texts, diagnostics } => {
            output.say(&diagnostics::human(diagnostics, texts, output.err))
        }
    }
}
