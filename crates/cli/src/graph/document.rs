//! The graph for programs.

use blackstart_core::graph::impact::{Impact, Outcome, State};
use blackstart_core::graph::loops::{Loop, deadlocks};
use blackstart_core::graph::recovery::Recovery;
use blackstart_core::graph::{Contact, Evidence, Graph, Kind, NeedId, NodeId};
use serde_json::{Value, json};

use super::human::{Order, strength_word};

fn name(graph: &Graph, id: NodeId) -> &str {
    &graph.node(id).name
}

fn names<'g>(graph: &'g Graph, ids: &[NodeId]) -> Vec<&'g str> {
    ids.iter().map(|id| name(graph, *id)).collect()
}

fn contact(contact: &Contact) -> Value {
    json!({
        "run": contact.run,
        "host": contact.host,
        "started": contact.started,
        "subject": contact.subject,
        "chain": contact.chain,
        "command": contact.command,
        "destination": contact.destination,
        "verdict": contact.verdict,
        "named": contact.named,
        "attempts": contact.attempts,
        "first_seen": contact.first_seen,
        "last_seen": contact.last_seen,
        "shown": contact.shown.map(|strength| strength.to_string()),
    })
}

fn evidence(evidence: &Evidence) -> Value {
    match evidence {
        Evidence::Declared {
            place,
            claim,
            reason,
        } => json!({
            "source": "declared",
            "file": &*place.file,
            "line": place.line,
            "column": place.column,
            "claim": claim.map(|claim| claim.to_string()),
            "reason": reason,
        }),
        Evidence::Imported { format, place } => json!({
            "source": "imported",
            "format": format,
            "file": &*place.file,
            "line": place.line,
            "column": place.column,
        }),
        Evidence::Observed(seen) => {
            let mut value = contact(seen);
            value["source"] = "observed".into();
            value
        }
    }
}

fn need(graph: &Graph, id: NeedId) -> Value {
    let need = graph.need(id);
    json!({
        "from": name(graph, need.from),
        "to": name(graph, need.to),
        "phase": need.phase.to_string(),
        "strength": strength_word(need.strength()),
        "evidence": need.evidence.iter().map(evidence).collect::<Vec<_>>(),
    })
}

fn needs(graph: &Graph, ids: &[NeedId]) -> Vec<Value> {
    ids.iter().map(|id| need(graph, *id)).collect()
}

fn node(graph: &Graph, id: NodeId) -> Value {
    let node = graph.node(id);
    json!({
        "name": node.name,
        "kind": match node.kind {
            Kind::Service => "service",
            Kind::Unlisted => "unlisted",
            Kind::Destination => "destination",
        },
        "owner": node.owner,
        "tier": node.tier,
    })
}

/// Services with their needs.
pub(super) fn services(graph: &Graph, nodes: &[NodeId]) -> Value {
    let one = |id: &NodeId| {
        let mut value = node(graph, *id);
        let ids: Vec<NeedId> = graph.needs_of(*id).map(|(id, _)| id).collect();
        value["needs"] = needs(graph, &ids).into();
        let itself = graph.selves().filter(|(of, _)| of == id);
        value["self"] = itself.map(|(_, seen)| contact(seen)).collect();
        value
    };
    json!({ "services": nodes.iter().map(one).collect::<Vec<_>>() })
}

/// The circles.
pub(super) fn loops(graph: &Graph, recovery: &Recovery, loops: &[Loop]) -> Value {
    let one = |it: &Loop| {
        let component = recovery.components().nth(it.component).unwrap_or_default();
        json!({
            "deploys": name(graph, it.deploys),
            "contacts": name(graph, it.contacts),
            "kind": it.kind.map(|kind| kind.as_str()),
            "kinds": it.kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>(),
            "steps": needs(graph, &it.steps),
            "shortest": it.shortest,
            "component": names(graph, component),
        })
    };
    let deadlocks = deadlocks(graph, recovery);
    let deadlocks = deadlocks.iter().map(|deadlock| {
        json!({
            "steps": needs(graph, &deadlock.steps),
            "component": names(graph, deadlock.members),
        })
    });
    json!({
        "loops": loops.iter().map(one).collect::<Vec<_>>(),
        // Circles that no deployment closes.
        "cannot_start": deadlocks.collect::<Vec<_>>(),
    })
}

/// The order of recovery (DESIGN §10: `levels` and `components`).
pub(super) fn order(order: &Order<'_>) -> Value {
    let graph = order.graph;
    let levels = |recovery: &Recovery| -> Value {
        let levels = recovery.levels().iter();
        levels.map(|level| names(graph, level)).collect()
    };
    let cuts: Vec<Value> = order
        .cuts
        .iter()
        .map(|cut| json!({ "needs": needs(graph, &cut.needs), "smallest": cut.smallest }))
        .collect();
    json!({
        "levels": levels(order.recovery),
        "components": order.recovery.components().map(|c| names(graph, c)).collect::<Vec<_>>(),
        "blocked": names(graph, order.recovery.blocked()),
        "cuts": cuts,
        "levels_after_cuts": order.after.map(levels),
    })
}

/// What an outage does.
pub(super) fn impact(graph: &Graph, down: &[NodeId], impact: &Impact) -> Value {
    let in_state = |state: State| -> Vec<&str> {
        let services = graph.ids().filter(|id| graph.node(*id).is_service());
        let there = services.filter(|id| impact.state(*id) == state);
        there.map(|id| name(graph, id)).collect()
    };
    let deploys = impact.deploys.iter().map(|(id, outcome)| {
        let (word, because): (_, &[NeedId]) = match outcome {
            Outcome::Works => ("works", &[]),
            Outcome::Fails(needs) => ("fails", needs),
            Outcome::Unknown(needs) => ("unknown", needs),
            Outcome::NeverSeen => ("never_seen", &[]),
        };
        json!({
            "service": name(graph, *id),
            "outcome": word,
            "because": needs(graph, because),
        })
    });
    json!({
        "named": names(graph, down),
        "down": in_state(State::Down),
        "perhaps_down": in_state(State::Unknown),
        "deploys": deploys.collect::<Vec<_>>(),
        "levels": impact.order.iter().map(|level| names(graph, level)).collect::<Vec<_>>(),
        "components": impact.stuck.iter().map(|c| names(graph, c)).collect::<Vec<_>>(),
    })
}

/// The whole graph.
pub(super) fn graph(graph: &Graph, recovery: &Recovery, found: &[Loop]) -> Value {
    let all: Vec<Value> = graph.ids().map(|id| node(graph, id)).collect();
    let mut document = loops(graph, recovery, found);
    document["nodes"] = all.into();
    document["needs"] = graph
        .ids()
        .flat_map(|id| graph.needs_of(id))
        .map(|(id, _)| need(graph, id))
        .collect();
    document["self"] = graph
        .selves()
        .map(|(id, seen)| {
            let mut value = contact(seen);
            value["service"] = name(graph, id).into();
            value
        })
        .collect();
    document
}
