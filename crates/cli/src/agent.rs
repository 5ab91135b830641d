//! The agent: what it says, what an order means to it, and how `run` asks it.

mod rounds;
mod units;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blackstart_core::agent::{AtEnd as Asked, Order as Wish};
use blackstart_core::catalog::Catalog;
use blackstart_core::policy::Effect;
use blackstart_core::redact::Redaction;
use blackstart_core::report::Mode;
use blackstart_guard::{
    Agent, AtEnd, Cause, Event, GivenPolicy, Judging, Origin, Post, Refusal, Request, Wanted,
};

use crate::FAILED;
use crate::agent_metrics::Metrics;
use crate::args::{self, Leftover};
use crate::diagnostics;
use crate::history;
use crate::layers::Files;
use crate::notify;
use crate::output::Output;
use crate::plain::{Paint, plain};
use crate::resolve::{self, Effective, Order, Problem, Surroundings};
use crate::run::{carry_out, show_all};
use rounds::Rounds;

/// Where the agent listens, unless somebody says otherwise.
const SOCKET: &str = "/run/blackstart/agent.sock";

/// How often an agent is asked again that went away before anything ran.
const TRIES: usize = 3;

/// Who guards a run.
pub(crate) enum Called {
    /// An agent that took the call.
    Agent(Agent, PathBuf),
    /// Whoever runs it.
    Nobody,
    /// One was named and cannot be reached.
    InVain,
}

/// Calls the agent, if there is one to be asked.
pub(crate) fn called(typed: &args::Run, output: Output) -> Called {
    let named = typed.agent.clone().or_else(|| {
        let named = std::env::var_os("BLACKSTART_AGENT").filter(|named| !named.is_empty());
        named.map(PathBuf::from)
    });
    let is_root = rustix::process::geteuid().is_root();
    // Nothing of ours is in the way of an emergency.
    if typed.break_glass.is_some() || named.as_deref() == Some(Path::new("none")) {
        return Called::Nobody;
    }
    let socket = match (&named, is_root) {
        (Some(named), _) => named.as_path(),
        (None, false) if Path::new(SOCKET).exists() => Path::new(SOCKET),
        _ => return Called::Nobody,
    };
    match Agent::call(socket) {
        Ok(agent) => Called::Agent(agent, socket.to_owned()),
        Err(error) => {
            let shown = socket.display();
            let message = format!("the agent at {shown} cannot be called: {error}");
            if named.is_some() {
                output.error(&plain(&format!(
                    "{message}; see that it runs, and that you are in its group"
                )));
                return Called::InVain;
            }
            output.warning(&plain(&format!(
                "{message}; the command is guarded without it, as far as that goes"
            )));
            Called::Nobody
        }
    }
}

/// Runs it by way of the agent, tells about it, and says how to exit.
pub(crate) fn run(typed: args::Run, agent: Agent, socket: &Path, output: Output) -> u8 {
    let (mut order, wish) = match wish(typed) {
        Ok(both) => both,
        Err(problems) => {
            show_all(&problems, output);
            return FAILED;
        }
    };
    let again = || {
        let called = Agent::call(socket).map_err(|error| Refusal {
            cause: Cause::System,
            what: format!("the agent at {} cannot be called", socket.display()),
            why: error.to_string(),
            remedy: "see that it runs".to_owned(),
        });
        called.and_then(|agent| agent.ask(&wish))
    };
    let mut asked = agent.ask(&wish);
    for _ in 0..TRIES {
        // It was replaced by another just now.
        if asked
            .as_ref()
            .is_err_and(|refusal| refusal.cause == Cause::Agent)
        {
            asked = again();
        }
    }
    let asked = match asked {
        Ok(asked) => asked,
        Err(refusal) => {
            // What is wrong with a policy is shown at its place, in lines.
            let text = refusal.to_string();
            let lines: Vec<_> = text.lines().map(plain).collect();
            output.error(&lines.join("\n"));
            return refusal.exit_code();
        }
    };
    let judging = asked.judging();
    for line in judging.remarks.iter().flat_map(|remark| remark.lines()) {
        output.say(&format!("{}\n", plain(line)));
    }
    order.policy = judging.policy.clone().map(|policy| Effective {
        source: judging.source.clone(),
        policy,
        ..Effective::default()
    });
    carry_out(&order, output, |request, notice| {
        let mut started = asked.start(request, notice);
        for _ in 0..TRIES {
            if started
                .as_ref()
                .is_err_and(|refusal| refusal.cause == Cause::Agent)
            {
                started = again().and_then(|asked| asked.start(request, notice));
            }
        }
        started?.see_through(request, notice)
    })
}

/// What was typed, as far as it is the caller's own business, and what the agent is to hear of it.
fn wish(mut typed: args::Run) -> Result<(Order, Wish), Vec<Problem>> {
    let around = Surroundings {
        // The agent has them.
        guardrails: PathBuf::new(),
        ..Surroundings::of_caller()
    };
    let mut problems = Vec::new();
    for (typed, what, why) in [
        (
            typed.catalog.is_some(),
            "--catalog",
            "it takes what services provide from its own catalog, since guardrails speak of them",
        ),
        (
            !typed.down.is_empty(),
            "--down",
            "outages are played by root",
        ),
        (
            typed.hide_sockets,
            "--hide-sockets",
            "the command is its caller's, and mounts are made by root",
        ),
    ] {
        if typed {
            let message = format!(
                "the agent that guards this run knows no {what}: {why}; leave it out, or run it as root"
            );
            problems.push(Problem::Message(message));
        }
    }
    let mut files = Files::default();
    if let Some(path) = typed.policy.take() {
        files.layer(&path, false);
    }
    if !files.sound() {
        problems.extend(files.messages.drain(..).map(Problem::Message));
        problems.push(Problem::Policy {
            diagnostics: std::mem::take(&mut files.diagnostics),
            texts: files.texts.clone(),
        });
    }
    let wish = Wish {
        command: Vec::new(),
        service: typed.service.clone(),
        mode: typed.mode.map(|mode| match mode {
            args::Mode::Observe => Mode::Observe,
            args::Mode::Enforce => Mode::Enforce,
        }),
        leftover: typed.leftover.map(|typed| match typed {
            Leftover::Release => Asked::Release,
            Leftover::Kill => Asked::Kill,
            Leftover::Keep => Asked::Keep,
            Leftover::Wait => Asked::Wait,
        }),
        accept_gaps: typed.accept_gap.clone(),
        contain: match (typed.contain, typed.no_contain) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
        concurrent: typed.concurrent,
        redact: typed.redact.clone(),
        time_limit: typed.time_limit.map(|limit| limit.as_secs().max(1)),
        policy: files.texts_in_order(),
    };
    // The host's targets are told by the agent.
    typed.notify.notify.push(notify::NONE.to_owned());
    let order = match resolve::run(typed, &around) {
        Ok(order) if problems.is_empty() => order,
        Ok(_) => return Err(problems),
        Err(more) => {
            problems.extend(more);
            return Err(problems);
        }
    };
    let words: Vec<_> = order
        .command
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    // What is a secret does not leave this process.
    let command = order.redaction.of(&words);
    Ok((order, Wish { command, ..wish }))
}

/// Takes calls until somebody ends it.
pub(crate) fn serve(typed: args::Agent, output: Output) -> u8 {
    match prepared(typed, output) {
        Ok((post, resolve, rules, tell)) => {
            match blackstart_guard::serve(post, resolve, rules, tell) {
                Ok(()) => 0,
                Err(refusal) => {
                    output.error(&plain(&refusal.to_string()));
                    FAILED
                }
            }
        }
        Err(message) => {
            output.error(&plain(&message));
            FAILED
        }
    }
}

type Parts = (
    Post,
    Box<blackstart_guard::Resolve>,
    Option<blackstart_guard::Rules>,
    Box<blackstart_guard::Tell>,
);

fn prepared(typed: args::Agent, output: Output) -> Result<Parts, String> {
    let state = resolve::trusted_state(std::env::var_os("BLACKSTART_STATE").as_deref())?;
    let group = typed.group.as_deref().map(group_number).transpose()?;
    let post = Post {
        socket: typed.socket.clone(),
        group,
        spares: usize::from(typed.spares),
        state_dir: state.clone(),
    };
    // Whoever reads them anew for a run of the agent's may be somewhere else.
    let here = std::env::current_dir().unwrap_or_default();
    let host = Host {
        policy: typed.policy.iter().map(|path| here.join(path)).collect(),
        catalog: typed.catalog.map(|path| here.join(path)),
        accept_gaps: typed.accept_gap,
        state: state.clone(),
        of_units: units::policies(&typed.guard),
    };
    // Guardrails that cannot be read let nobody through: to be told at once, and not when somebody calls.
    host.effective(&Wish::default(), None, true)
        .map_err(|problems| texts(&problems).join("\n"))?;
    let of_host = || Surroundings::of_process().catalog.of_host();
    let catalog = host.catalog.clone().or_else(of_host);
    let host = Arc::new(host);
    let rules = units::rules(&host, typed.guard, output)?;
    let resolve = move |wanted: Wanted| host.meaning(wanted).map_err(|problems| texts(&problems));
    let rounds = Rounds::new(&state, catalog, typed.notify_every);
    let metrics = typed
        .metrics
        .as_deref()
        .map(|file| Metrics::new(file, &state));
    let tell = move |event: Event| {
        rounds.take(&event);
        if let Some(metrics) = &metrics {
            metrics.take(&event);
        }
        tell(event, &state, output);
    };
    Ok((post, Box::new(resolve), rules, Box::new(tell)))
}

/// A group by its name or number.
fn group_number(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let groups = fs::read_to_string("/etc/group")
        .map_err(|error| format!("the group {text} cannot be looked up: /etc/group: {error}"))?;
    let of_line = |line: &str| {
        let mut fields = line.split(':');
        (fields.next()? == text).then(|| fields.nth(1)?.parse().ok())?
    };
    groups.lines().find_map(of_line).ok_or_else(|| {
        format!("there is no group {text} in /etc/group; make it (`groupadd --system {text}`), or give its number")
    })
}

/// What holds on this host, whoever calls.
struct Host {
    policy: Vec<PathBuf>,
    catalog: Option<PathBuf>,
    accept_gaps: Vec<String>,
    state: PathBuf,
    /// By what each rule about units judges.
    of_units: Vec<Option<PathBuf>>,
}

impl Host {
    /// The guardrails that are its own.
    fn guardrails(&self, rule: Option<usize>) -> impl Iterator<Item = &PathBuf> {
        let of_unit = rule.and_then(|rule| self.of_units.get(rule)?.as_ref());
        self.policy.iter().chain(of_unit)
    }

    /// What guardrails and an order's policy make together. For who calls from a unit that is guarded by a `rule`, that rule's
    /// policy is a guardrail.
    fn effective(
        &self,
        wish: &Wish,
        rule: Option<usize>,
        all_final: bool,
    ) -> Result<Effective, Vec<Problem>> {
        let around = Surroundings {
            all_final,
            ..Surroundings::of_process()
        };
        let mut files = Files::default();
        let mut layers = files.guardrails(&around.guardrails);
        layers.extend(self.guardrails(rule).map(|path| files.layer(path, true)));
        if !wish.policy.is_empty() {
            layers.push(files.given(wish.policy.clone()));
        }
        if layers.is_empty() && files.sound() {
            return Ok(resolve::bare(wish.service.clone(), wish.mode));
        }
        let asked = resolve::Asked {
            layers,
            catalog: self.catalog.as_deref(),
            mode: wish.mode,
            service: wish.service.clone(),
        };
        resolve::resolved(files, asked, &around)
    }

    /// The services, to find the circles of a deployment.
    fn catalog_for(&self, deploys: bool) -> Option<Arc<Catalog>> {
        let of_host = || Surroundings::of_process().catalog.of_host();
        let path = self.catalog.clone().or_else(of_host).filter(|_| deploys)?;
        Some(Arc::new(Files::default().catalog(&path).catalog))
    }

    /// The run that somebody wants.
    fn meaning(&self, wanted: Wanted) -> Result<(Request, Judging), Vec<Problem>> {
        let Wanted {
            order: wish,
            uid,
            rule,
        } = wanted;
        let for_root = uid == 0;
        let mut effective = self.effective(&wish, rule, !for_root)?;
        if let Some(limit) = wish.time_limit.map(Duration::from_secs) {
            let limits = &mut effective.policy.limits;
            limits.time = Some(limits.time.map_or(limit, |known| known.min(limit)));
        }
        resolve::compiled(&effective).map_err(|problem| vec![problem])?;
        let redaction = Redaction::new(&wish.redact)
            .map_err(|wrong| vec![Problem::Message(format!("--redact {wrong}"))])?;
        let mut accept_gaps = self.accept_gaps.clone();
        let weakens = !wish.accept_gaps.is_empty() || wish.contain == Some(false);
        if weakens && !for_root {
            let guardrails = self.effective(&Wish::default(), rule, true)?.policy;
            let allowed = |kind: &String| self.accept_gaps.contains(kind);
            if guardrails.enforces() && !wish.accept_gaps.iter().all(allowed) {
                let message = "this host's guardrails enforce, and so only its agent says which gaps are accepted; leave out --accept-gap, or ask an administrator";
                return Err(vec![Problem::Message(message.to_owned())]);
            }
            let denies = guardrails.default == Effect::Deny;
            if wish.contain == Some(false) && denies && guardrails.enforces() {
                let message = "this host's guardrails deny by default, and so commands give up gaining privileges; leave out --no-contain, or ask an administrator";
                return Err(vec![Problem::Message(message.to_owned())]);
            }
        }
        accept_gaps.extend(wish.accept_gaps);
        let shown = diagnostics::human(&effective.warnings, &effective.texts, Paint::None);
        let mut remarks = effective.remarks;
        remarks.extend(Some(shown).filter(|text| !text.is_empty()));
        let given = GivenPolicy {
            policy: effective.policy,
            source: effective.source,
        };
        let judging = Judging {
            policy: Some(given.policy.clone()),
            source: given.source.clone(),
            service: given.policy.service.clone(),
            mode: Some(given.policy.mode),
            remarks,
        };
        let request = Request {
            command: wish.command.iter().map(OsString::from).collect(),
            env: Vec::new(),
            redaction,
            service: given.policy.service.clone(),
            mode: Some(given.policy.mode),
            leftover: wish.leftover.map(|typed| match typed {
                Asked::Release => AtEnd::Release,
                Asked::Kill => AtEnd::Kill,
                Asked::Keep => AtEnd::Keep,
                Asked::Wait => AtEnd::Wait,
            }),
            accept_gaps,
            contain: wish.contain,
            hide_sockets: false,
            concurrent: wish.concurrent,
            break_glass: None,
            drill: None,
            lock: None,
            catalog: self.catalog_for(given.policy.service.is_some()),
            // Of the caller's own policy only the text is known: whoever reloads names a file.
            origin: Origin {
                catalog: self.catalog.clone(),
                service: wish.service,
                guardrails: self.guardrails(rule).cloned().collect(),
                all_final: !for_root,
                ..Origin::default()
            },
            state_dir: self.state.clone(),
            id: None,
            policy: Some(given),
        };
        Ok((request, judging))
    }
}

/// What is wrong, without colours: it is shown elsewhere.
fn texts(problems: &[Problem]) -> Vec<String> {
    let text = |problem: &Problem| match problem {
        Problem::Message(message) => message.clone(),
        Problem::Policy { texts, diagnostics } => {
            diagnostics::human(diagnostics, texts, Paint::None)
        }
    };
    problems.iter().map(text).collect()
}

fn tell(event: Event, state: &Path, output: Output) {
    let line = match event {
        Event::Listening => "takes calls".to_owned(),
        Event::Spares(_) => return,
        Event::Refused { caller, text, .. } => {
            let who = caller.map_or_else(
                || "somebody".to_owned(),
                |(uid, pid)| format!("user {uid} (process {pid})"),
            );
            format!("refused {who}: {text}")
        }
        Event::Began { run, uid, pid } => format!("run {run}: process {pid} of user {uid}"),
        Event::TakenUp { run } => {
            format!("run {run}: left by an earlier agent, looked after again")
        }
        Event::Over {
            run,
            record,
            finished,
        } => {
            if let Some(record) = &record {
                notify::tell_of_adopted(record, state, output);
                if finished {
                    history::keep(state, record, output);
                }
                notify::send_what_is_due(state);
            }
            format!("run {run}: over")
        }
        Event::Adopted(report) => {
            notify::tell_of_adopted(&report, state, output);
            history::keep(state, &report, output);
            notify::send_what_is_due(state);
            format!("{}: over, without its agent", report.display())
        }
        Event::Attached {
            run,
            unit,
            rule,
            processes,
        } => format!("run {run}: {unit}, guarded by {rule}, has {processes} processes"),
        Event::Left { run, unit } => {
            format!("run {run}: {unit} stays guarded, for the next agent")
        }
        Event::Unguarded { unit, why } => {
            return output.warning(&plain(&format!("{unit} is not guarded: {why}")));
        }
        Event::Told { unit, notice } => return units::tell(&unit, &notice, output),
        Event::Warning(text) => return output.warning(&plain(&text)),
    };
    output.say(&format!("blackstart agent: {}\n", plain(&line)));
}
