//! The graph in words.

use std::fmt::Write as _;

use blackstart_core::catalog::Strength;
use blackstart_core::graph::impact::{Impact, Outcome, State};
use blackstart_core::graph::loops::{Deadlock, Loop, LoopKind};
use blackstart_core::graph::recovery::Recovery;
use blackstart_core::graph::{Cut, Graph, Need, NeedId, NodeId};

use crate::plain::{Paint, cut, plain};

/// Longest text of a line of evidence.
const WIDTH: usize = 240;

/// `mysql needs github to deploy`.
fn need(graph: &Graph, id: NeedId) -> String {
    let need = graph.need(id);
    let name = |id| plain(&graph.node(id).name);
    format!(
        "{} needs {} to {}",
        name(need.from),
        name(need.to),
        need.phase
    )
}

/// How it is known: the first of the evidence, and how much more there is.
fn known(need: &Need) -> String {
    let mut text = match need.evidence.first() {
        Some(evidence) => plain(&evidence.to_string()),
        None => String::new(),
    };
    if need.evidence.len() > 1 {
        let _ = write!(text, " (and {} more)", need.evidence.len() - 1);
    }
    cut(&text, WIDTH)
}

fn names(graph: &Graph, ids: &[NodeId]) -> String {
    let names: Vec<_> = ids.iter().map(|id| plain(&graph.node(*id).name)).collect();
    names.join(", ")
}

fn strength(need: &Need) -> String {
    match (need.shown(), need.claimed()) {
        (Some(shown), _) => format!("{shown}, as a run has shown"),
        (None, Some(claimed)) => format!("{claimed}, as is claimed"),
        (None, None) => "nobody knows how hard".to_owned(),
    }
}

/// Services, with what each needs.
pub(super) fn services(graph: &Graph, nodes: &[NodeId], paint: Paint) -> String {
    let mut out = String::new();
    for &id in nodes {
        let node = graph.node(id);
        let mut line = paint.bold(&plain(&node.name));
        if let Some(tier) = node.tier {
            let _ = write!(line, "  tier {tier}");
        }
        if let Some(owner) = &node.owner {
            let _ = write!(line, "  {}", plain(owner));
        }
        let _ = writeln!(out, "{line}");
        for (_, need) in graph.needs_of(id) {
            let _ = writeln!(
                out,
                "  needs {} to {}; {}",
                plain(&graph.node(need.to).name),
                need.phase,
                strength(need)
            );
            let _ = writeln!(out, "    {}", known(need));
        }
        for (_, contact) in graph.selves().filter(|(of, _)| *of == id) {
            let _ = writeln!(
                out,
                "  itself, on its own host\n    {}",
                cut(&plain(&contact.to_string()), WIDTH)
            );
        }
    }
    if out.is_empty() {
        out.push_str("no services\n");
    }
    out
}

/// What is wrong with a component.
fn without(members: &[NodeId]) -> &'static str {
    match members {
        [_] => "cannot start without itself",
        _ => "cannot start without each other",
    }
}

/// The circles: those that deployments close, and those that stand without any.
pub(super) fn loops(
    graph: &Graph,
    loops: &[Loop],
    deadlocks: &[Deadlock<'_>],
    paint: Paint,
) -> String {
    let mut out = String::new();
    for it in loops {
        let kinds: Vec<_> = match it.kinds.is_empty() {
            true => vec!["declared"],
            false => it.kinds.iter().copied().map(LoopKind::as_str).collect(),
        };
        let then: String = it.steps[1..]
            .iter()
            .map(|step| {
                format!(
                    ", which needs {}",
                    plain(&graph.node(graph.need(*step).to).name)
                )
            })
            .collect();
        let title = if it.deploys == it.contacts {
            let name = plain(&graph.node(it.deploys).name);
            format!("the deploy of {name} needs {name} itself")
        } else {
            format!(
                "the deploy of {} needs {}{then}",
                plain(&graph.node(it.deploys).name),
                plain(&graph.node(it.contacts).name)
            )
        };
        let _ = writeln!(out, "{}  {title}", paint.bad(&kinds.join(", ")));
        for step in &it.steps {
            let known = known(graph.need(*step));
            let _ = writeln!(out, "  {}\n    {known}", need(graph, *step));
        }
        if !it.shortest {
            out.push_str("  there may be a shorter one: the search was given up\n");
        }
    }
    match (loops.is_empty(), deadlocks.is_empty()) {
        (true, true) => {
            let _ = writeln!(out, "{}", paint.good("no circle that is known of"));
        }
        (true, false) => out.push_str("no deployment closes a circle that is known of\n"),
        (false, _) => {}
    }
    for deadlock in deadlocks {
        let _ = writeln!(
            out,
            "{}  {}",
            paint.bad(without(deadlock.members)),
            names(graph, deadlock.members)
        );
        for step in &deadlock.steps {
            let known = known(graph.need(*step));
            let _ = writeln!(out, "  {}\n    {known}", need(graph, *step));
        }
    }
    out
}

/// The order of recovery.
pub(super) struct Order<'a> {
    pub(super) graph: &'a Graph,
    pub(super) recovery: &'a Recovery,
    /// For each component.
    pub(super) cuts: &'a [Cut],
    /// What it is like once all of it is cut, if anything has to be.
    pub(super) after: Option<&'a Recovery>,
}

impl Order<'_> {
    pub(super) fn human(&self, paint: Paint) -> String {
        let mut out = String::new();
        let graph = self.graph;
        levels(&mut out, graph, self.recovery.levels(), "");
        for (members, cut) in self.recovery.components().zip(self.cuts) {
            let _ = writeln!(
                out,
                "{}  {}",
                paint.bad(without(members)),
                names(graph, members)
            );
            let what = match (cut.needs.len(), cut.smallest) {
                (1, true) => "cut this need; no fewer will do",
                (_, true) => "cut these needs; no fewer will do",
                (_, false) => "cut these needs; perhaps fewer will do",
            };
            let _ = writeln!(out, "  {what}");
            for id in &cut.needs {
                let of = graph.need(*id);
                let _ = writeln!(out, "    {}; {}", need(graph, *id), strength(of));
                let _ = writeln!(out, "      {}", known(of));
            }
        }
        if !self.recovery.blocked().is_empty() {
            let _ = writeln!(
                out,
                "{}  {}",
                paint.bad("cannot start, for they need one of those"),
                names(graph, self.recovery.blocked())
            );
        }
        if let Some(after) = self.after {
            let _ = writeln!(out, "{}", paint.bold("once that is cut"));
            levels(&mut out, graph, after.levels(), "  ");
        }
        if out.is_empty() {
            out.push_str("no services\n");
        }
        out
    }
}

fn levels(out: &mut String, graph: &Graph, levels: &[Vec<NodeId>], indent: &str) {
    for (number, level) in levels.iter().enumerate() {
        let _ = writeln!(out, "{indent}{:>2}  {}", number + 1, names(graph, level));
    }
}

/// What an outage does.
pub(super) fn impact(graph: &Graph, down: &[NodeId], impact: &Impact, paint: Paint) -> String {
    let mut out = String::new();
    let of = |state: State| -> Vec<NodeId> {
        graph
            .ids()
            .filter(|id| impact.state(*id) == state && graph.node(*id).is_service())
            .filter(|id| !down.contains(id))
            .collect()
    };
    let _ = writeln!(out, "{}  {}", paint.bad("down"), names(graph, down));
    for (state, words) in [
        (State::Down, "down with it"),
        (State::Unknown, "perhaps down with it"),
    ] {
        let ids = of(state);
        if !ids.is_empty() {
            let _ = writeln!(out, "{}  {}", paint.doubtful(words), names(graph, &ids));
        }
    }
    let _ = writeln!(out, "\n{}", paint.bold("deployments"));
    for (id, outcome) in &impact.deploys {
        let name = plain(&graph.node(*id).name);
        let (word, needs): (String, &[NeedId]) = match outcome {
            Outcome::Works => (paint.good("works"), &[]),
            Outcome::Fails(needs) => (paint.bad("fails"), needs),
            Outcome::Unknown(needs) => (paint.doubtful("unknown"), needs),
            Outcome::NeverSeen => ("never seen".to_owned(), &[]),
        };
        let _ = writeln!(out, "  {word}  {name}");
        if matches!(outcome, Outcome::Unknown(needs) if needs.is_empty()) {
            out.push_str("    no run of it was seen to a good end\n");
        }
        for id in needs {
            let of = graph.need(*id);
            let _ = writeln!(out, "    {}; {}", need(graph, *id), strength(of));
            let _ = writeln!(out, "      {}", known(of));
        }
    }
    let _ = writeln!(out, "\n{}", paint.bold("to bring back, in this order"));
    levels(&mut out, graph, &impact.order, "  ");
    for members in &impact.stuck {
        let _ = writeln!(
            out,
            "  {}  {}  (see `blackstart graph order`)",
            paint.bad(without(members)),
            names(graph, members)
        );
    }
    out
}

/// As documents say it.
pub(super) fn strength_word(strength: Option<Strength>) -> &'static str {
    match strength {
        Some(Strength::Hard) => "hard",
        Some(Strength::Soft) => "soft",
        None => "unknown",
    }
}
