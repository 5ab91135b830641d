//! The page of a run.

use std::io;

use askama::Template as _;
use blackstart_core::catalog::Catalog;
use blackstart_core::catalog::Phase;
use blackstart_core::graph::loops::loops_of;
use blackstart_core::graph::recovery::Recovery;
use blackstart_core::graph::{Graph, Input, NodeId, Observed, build};
use blackstart_core::policy::{Rule, memory_text};
use blackstart_core::report::{Delegate, Finding, Gap, Guarded, Mode, Parts, Report};

use super::clock::{Clock, Tick, day_and_time, length_text};
use super::destinations::{Destination, Destinations};
use super::findings::{self, Card, OfRun};
use super::picture::Picture;
use super::processes::{Process, Processes};
use super::{Shell, command_line, grouped};
use crate::plain::{Paint, cut};
use crate::summary::limits::use_of;
use crate::summary::lineage::Lineage;
use crate::summary::{
    ABOUT_CATALOG, OF_COVERAGE, Telling, counted, delegate_verdict, is_resolver_socket, stands,
};
use crate::summary::{drill, followed};

/// In the timeline no more destinations are shown.
const LANES: usize = 40;
/// No more daemons are shown.
const DELEGATES: usize = 500;
/// The longest command in the page's head.
const COMMAND: usize = 300;

/// What a page is made of.
pub(crate) struct RunPage<'a> {
    /// The report.
    pub(crate) report: &'a dyn Parts,
    /// The policy's rules, to say in which file and line each stands.
    pub(crate) rules: &'a [Rule],
    /// What the circles were looked for with.
    pub(crate) catalog: Option<&'a Catalog>,
    /// Names of the services that the policy protects.
    pub(crate) protect: &'a [String],
    /// The whole report as a value, for the graph. It is asked for if there is a catalog only.
    pub(crate) whole: &'a dyn Fn() -> Report,
}

impl RunPage<'_> {
    /// Writes it, row by row.
    pub(crate) fn write(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let sentence = Telling {
            report: self.report,
            rules: self.rules,
            explained: None,
            written: &[],
            paint: Paint::None,
        }
        .sentence();
        let graph = self.catalog.map(|catalog| {
            build(&Input {
                catalog,
                runs: &[Observed {
                    report: &(self.whole)(),
                    // What is attached to runs already.
                    phase: match self.report.run().attached {
                        Some(_) => Phase::Run,
                        None => Phase::Deploy,
                    },
                }],
                imports: &[],
            })
        });
        let clock = Clock::of(self.report);
        let lines = Lineage::of(self.report.subjects());
        let picture = graph.as_ref().and_then(|graph| self.picture(graph));
        let destinations = Destinations::of(self.report);
        let view = View {
            shell: Shell::new(),
            sentence,
            facts: facts(self.report, clock),
            clock,
            drawing: Drawing {
                no_circle: match &picture {
                    Some(picture) if picture.circles_left_out > 0 => "No circle is drawn.",
                    _ => "This deployment closes no circle that is known of.",
                },
                picture: picture.unwrap_or_default(),
                why_not: self.why_no_graph(graph.as_ref()),
            },
            lanes: destinations.timeline(&lines, self.rules, clock, LANES),
            destinations,
            processes: Processes::of(self.report, clock),
            cards: OfRun {
                report: self.report,
                rules: self.rules,
                lines: &lines,
                graph: graph.as_ref(),
            },
            report: self.report,
            rules: self.rules,
            lines: &lines,
        };
        view.write_into(&mut IoWriter(out))
    }

    fn deploys(&self, graph: &Graph) -> Option<NodeId> {
        graph.find(self.report.run().service.as_deref()?)
    }

    fn picture(&self, graph: &Graph) -> Option<Picture> {
        let deploys = self.deploys(graph)?;
        let protect: Vec<NodeId> = self
            .protect
            .iter()
            .filter_map(|name| graph.find(name))
            .collect();
        let loops = loops_of(graph, &Recovery::of(graph), &protect, deploys);
        let circles: Vec<_> = loops.iter().map(|it| it.steps.as_slice()).collect();
        Some(Picture::of(graph, &circles, Some(deploys)))
    }

    fn why_no_graph(&self, graph: Option<&Graph>) -> Option<&'static str> {
        match (graph, self.report.run().service.is_some()) {
            (None, _) => Some(
                "No catalog was given (--catalog DIR), so nobody looked for circles, and there is no graph to draw.",
            ),
            (Some(_), false) => Some(
                "The run does not say what it deploys (--service NAME), so nobody looked for circles, and there is no graph to draw.",
            ),
            (Some(graph), true) if self.deploys(graph).is_none() => {
                Some("What the run deploys is not in the graph.")
            }
            (Some(_), true) => None,
        }
    }
}

/// Askama writes into what has a size.
struct IoWriter<'a>(&'a mut dyn io::Write);

impl io::Write for IoWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The graph, or why there is none.
pub(super) struct Drawing {
    pub(super) picture: Picture,
    pub(super) why_not: Option<&'static str>,
    /// What to say where no circle is drawn.
    pub(super) no_circle: &'static str,
}

/// One line of the page's head.
pub(super) struct Fact {
    pub(super) word: &'static str,
    pub(super) text: String,
    /// Set in the font of code.
    pub(super) code: bool,
    /// It may be long.
    pub(super) wide: bool,
}

fn facts(report: &dyn Parts, clock: Clock) -> Vec<Fact> {
    let run = report.run();
    let mut list = Vec::new();
    let mut fact = |word, text: Option<String>, code| {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            let wide = code || matches!(word, "policy" | "limits" | "drill" | "followed");
            list.push(Fact {
                word,
                text,
                code,
                wide,
            });
        }
    };
    let service = match run.attached {
        Some(_) => "service",
        None => "deploys",
    };
    fact(service, run.service.clone(), false);
    fact("owner", run.owner.clone(), false);
    fact("host", Some(run.host.clone()), false);
    fact("mode", Some(mode_text(run.mode).to_owned()), false);
    fact(
        "exit code",
        run.exit_code.map(|code| code.to_string()),
        false,
    );
    let took = match run.ended {
        Some(_) => length_text(clock.length()),
        None => format!("{}, and its end was not seen", length_text(clock.length())),
    };
    fact(
        "started",
        Some(format!("{} UTC", day_and_time(&run.started))),
        false,
    );
    fact("took", Some(took), false);
    fact(
        "processor",
        run.usage.cpu_seconds.map(|cpu| format!("{cpu:.1} s")),
        false,
    );
    fact("peak memory", run.usage.peak_memory.map(memory_text), false);
    let drill = drill::told(run).map(|told| {
        let time = told.time.map_or(String::new(), |time| format!("; {time}"));
        format!("{}: {}; {}{time}", told.what, told.outcome, told.vain)
    });
    fact("drill", drill, false);
    fact("limits", use_of(run), false);
    fact("kernel", Some(run.kernel.release.clone()), false);
    let policy = run.policy.as_ref().map(|policy| {
        let digest: String = policy.digest.chars().take(12).collect();
        format!("{} ({digest})", policy.files.join(", "))
    });
    fact(
        "policy",
        policy.or_else(|| Some("none: everything passes and is recorded".to_owned())),
        false,
    );
    let reloads = (!run.reloads.is_empty()).then(|| counted(run.reloads.len() as u64, "reload"));
    fact("reloaded", reloads, false);
    let open = run.attached.as_ref().map(|attached| &attached.connections);
    let open = open.filter(|open| !open.is_empty()).map(|open| {
        let cut = open.iter().filter(|one| one.cut).count();
        format!(
            "{}, {cut} of them cut",
            counted(open.len() as u64, "connection")
        )
    });
    fact("open before", open, false);
    let followed: Vec<String> = run.followed.iter().map(followed::told).collect();
    fact("followed", Some(followed.join("; ")), false);
    fact(
        "command",
        match &run.attached {
            Some(attached) => Some(cut(&format!("attached to {}", attached.target), COMMAND)),
            None => Some(cut(&command_line(&run.command), COMMAND)),
        },
        true,
    );
    fact("run", Some(run.id.clone()), true);
    list
}

fn mode_text(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => "observe",
        Mode::Enforce => "enforce",
    }
}

#[derive(askama::Template)]
#[template(path = "run.html")]
struct View<'a> {
    shell: Shell,
    sentence: String,
    facts: Vec<Fact>,
    clock: Clock,
    drawing: Drawing,
    lanes: Vec<Destination>,
    destinations: Destinations,
    processes: Processes<'a>,
    cards: OfRun<'a>,
    report: &'a dyn Parts,
    rules: &'a [Rule],
    lines: &'a Lineage,
}

/// What has a card of its own: the page says by itself what was not seen, and whom the run turned to.
fn has_card(finding: &Finding) -> bool {
    !OF_COVERAGE.contains(&finding.kind.as_str())
}

/// For whoever keeps the catalog, in the morning.
fn is_remark(finding: &Finding) -> bool {
    ABOUT_CATALOG.contains(&finding.kind.as_str())
}

/// A daemon, in words.
struct DelegateRow {
    class: &'static str,
    path: String,
    listener: String,
    verdict: String,
    attempts: u64,
    attempts_text: String,
    by: String,
}

impl View<'_> {
    fn title(&self) -> String {
        let run = self.report.run();
        format!(
            "{} on {}, {}",
            run.service.as_deref().unwrap_or("run"),
            run.host,
            day_and_time(&run.started)
        )
    }

    /// The circles, the worst of what a page can tell.
    fn circles(&self) -> Vec<&Finding> {
        let findings = self.report.findings().iter();
        findings
            .filter(|finding| finding.circle.is_some())
            .collect()
    }

    fn break_glass(&self) -> Option<&str> {
        self.report.run().break_glass.as_deref()
    }

    fn unguarded(&self) -> bool {
        self.report.run().guarded == Guarded::No
    }

    fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.report.findings().iter().filter(|it| has_card(it))
    }

    /// What somebody ought to act on: the circles before all else.
    fn cards(&self) -> impl Iterator<Item = Card> {
        let acted_on = || self.findings().filter(|it| !is_remark(it));
        let circles = acted_on().filter(|it| it.circle.is_some());
        let others = acted_on().filter(|it| it.circle.is_none());
        let shown = circles.chain(others).take(findings::SHOWN);
        shown.map(|finding| self.cards.card(finding))
    }

    fn remarks(&self) -> impl Iterator<Item = Card> {
        let remarks = self.findings().filter(|it| is_remark(it));
        remarks
            .take(findings::SHOWN)
            .map(|finding| self.cards.card(finding))
    }

    fn counted_remarks(&self) -> usize {
        self.findings().filter(|it| is_remark(it)).count()
    }

    fn remarks_text(&self) -> String {
        counted(self.counted_remarks() as u64, "remark")
    }

    fn findings_left_out(&self) -> usize {
        let remarks = self.counted_remarks();
        let others = self.findings().count() - remarks;
        remarks.saturating_sub(findings::SHOWN) + others.saturating_sub(findings::SHOWN)
    }

    fn counted_findings(&self) -> String {
        grouped(self.findings().count() as u64)
    }

    fn ticks(&self) -> Vec<Tick> {
        self.clock.ticks()
    }

    fn run_length(&self) -> String {
        length_text(self.clock.length())
    }

    fn rows(&self) -> impl Iterator<Item = Destination> {
        self.destinations.rows(self.lines, self.rules, self.clock)
    }

    fn processes(&self) -> impl Iterator<Item = Process> {
        self.processes.rows()
    }

    fn delegates(&self) -> impl Iterator<Item = DelegateRow> {
        self.told_delegates().take(DELEGATES).map(|it| DelegateRow {
            class: match it.verdict {
                blackstart_core::report::Verdict::Deny => "refused",
                blackstart_core::report::Verdict::WouldDeny => "would",
                _ => "outside",
            },
            path: it.place().into_owned(),
            listener: match (&it.listener_exe, it.listener_pid) {
                (Some(exe), Some(pid)) => format!("{exe} ({pid})"),
                (Some(exe), None) => exe.clone(),
                (None, Some(pid)) => pid.to_string(),
                (None, None) => String::new(),
            },
            verdict: delegate_verdict(it.verdict, &it.rule),
            attempts: it.attempts,
            attempts_text: grouped(it.attempts),
            by: self.lines.chain(it.subject),
        })
    }

    /// Without those of the resolvers, which are turned away on purpose.
    fn told_delegates(&self) -> impl Iterator<Item = &Delegate> {
        let delegates = self.report.delegates().iter();
        delegates.filter(|delegate| !is_resolver_socket(&delegate.rule))
    }

    fn counted_delegates(&self) -> usize {
        self.told_delegates().count()
    }

    fn delegates_left_out(&self) -> usize {
        self.counted_delegates().saturating_sub(DELEGATES)
    }

    fn coverage_sentence(&self) -> String {
        let coverage = self.report.coverage();
        let mut text = format!(
            "{} of {} recorded, {} of them with process and name.",
            grouped(coverage.recorded),
            match coverage.attempts {
                1 => "1 attempt was".to_owned(),
                attempts => format!("{} attempts were", grouped(attempts)),
            },
            grouped(coverage.attributed)
        );
        match coverage.lost {
            0 => text.push_str(" Nothing was lost."),
            lost => text.push_str(&format!(
                " {} were lost: seen, counted, and not recorded.",
                grouped(lost)
            )),
        }
        if coverage.unsupervised_seconds > 0.0 {
            text.push_str(&format!(
                " For {:.1} s the run had no supervisor; what the kernel recorded meanwhile is here.",
                coverage.unsupervised_seconds
            ));
        }
        text
    }

    fn lost(&self) -> bool {
        self.report.coverage().lost > 0
    }

    fn own_gaps(&self) -> Vec<&Gap> {
        self.report
            .coverage()
            .gaps
            .iter()
            .filter(|gap| !stands(gap))
            .collect()
    }

    fn standing_gaps(&self) -> Vec<&Gap> {
        self.report
            .coverage()
            .gaps
            .iter()
            .filter(|gap| stands(gap))
            .collect()
    }
}
