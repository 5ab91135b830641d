//! The graph for programs that draw. Names come from files and from processes: nothing in them may end the
//! text that they stand in.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use blackstart_core::catalog::{Phase, Strength};
use blackstart_core::graph::loops::{Deadlock, Loop};
use blackstart_core::graph::recovery::Recovery;
use blackstart_core::graph::{Graph, Need, NeedId};

use super::missing::Missing;
use crate::html::Catalogued;
use crate::plain::plain;

/// The needs that lie on one.
pub(super) fn circles(loops: &[Loop], deadlocks: &[Deadlock<'_>]) -> BTreeSet<NeedId> {
    let of_loops = loops.iter().map(|it| &it.steps);
    let steps = of_loops.chain(deadlocks.iter().map(|it| &it.steps));
    steps.flatten().copied().collect()
}

/// For Graphviz: circles in red, what was only declared dashed.
pub(super) fn dot(graph: &Graph, circles: &BTreeSet<NeedId>, missing: Missing<'_>) -> String {
    let mut out = String::from("digraph blackstart {\n  rankdir=LR;\n  node [shape=box];\n");
    let lacks = missing.sentences();
    if !lacks.is_empty() {
        let _ = writeln!(out, "  label={};", quoted(&lacks.join("; ")));
    }
    for id in graph.ids() {
        let node = graph.node(id);
        let shape = if node.is_service() { "box" } else { "ellipse" };
        let _ = writeln!(
            out,
            "  n{} [label={}, shape={shape}];",
            id.index(),
            quoted(&node.name)
        );
    }
    for (id, need) in needs(graph) {
        let colour = if circles.contains(&id) {
            "red"
        } else {
            "black"
        };
        let style = if need.contacts().next().is_some() {
            "solid"
        } else {
            "dashed"
        };
        let _ = writeln!(
            out,
            "  n{} -> n{} [label={}, color={colour}, style={style}];",
            need.from.index(),
            need.to.index(),
            quoted(&label(need))
        );
    }
    out.push_str("}\n");
    out
}

/// For Mermaid: circles as thick lines.
pub(super) fn mermaid(graph: &Graph, circles: &BTreeSet<NeedId>, missing: Missing<'_>) -> String {
    let mut out = String::from("flowchart LR\n");
    for (number, lack) in missing.sentences().iter().enumerate() {
        let _ = writeln!(out, "  missing{number}{{{{\"{}\"}}}}", entities(lack));
    }
    for id in graph.ids() {
        let node = graph.node(id);
        let text = entities(&node.name);
        let _ = match node.is_service() {
            true => writeln!(out, "  n{}[\"{text}\"]", id.index()),
            false => writeln!(out, "  n{}([\"{text}\"])", id.index()),
        };
    }
    for (id, need) in needs(graph) {
        let arrow = match (circles.contains(&id), need.contacts().next().is_some()) {
            (true, _) => "==>",
            (false, true) => "-->",
            (false, false) => "-.->",
        };
        let _ = writeln!(
            out,
            "  n{} {arrow}|{}| n{}",
            need.from.index(),
            entities(&label(need)),
            need.to.index()
        );
    }
    out
}

/// For a browser: a page by itself.
pub(super) fn html(
    graph: &Graph,
    recovery: &Recovery,
    loops: &[Loop],
    partial: bool,
) -> Result<String, String> {
    let page = Catalogued {
        graph,
        recovery,
        loops,
        partial,
    };
    let cannot = |error| format!("cannot write the page: {error}");
    page.text().map_err(cannot)
}

fn needs(graph: &Graph) -> impl Iterator<Item = (NeedId, &Need)> {
    graph.ids().flat_map(|id| graph.needs_of(id))
}

fn label(need: &Need) -> String {
    let phase = match need.phase {
        Phase::Deploy => "deploy",
        Phase::Run => "run",
    };
    match need.strength() {
        Some(Strength::Hard) => format!("{phase}, hard"),
        Some(Strength::Soft) => format!("{phase}, soft"),
        None => phase.to_owned(),
    }
}

/// A quoted string of the DOT language. A backslash begins an escape in labels, so it is doubled.
fn quoted(text: &str) -> String {
    let text = plain(text).replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{text}\"")
}

/// Everything but letters, digits and what names are made of, as Mermaid's entity codes.
fn entities(text: &str) -> String {
    plain(text)
        .chars()
        .map(|c| match c {
            c if c.is_alphanumeric() => c.to_string(),
            '.' | '-' | '_' | ' ' | ',' | '/' | ':' => c.to_string(),
            c => format!("#{};", u32::from(c)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_ends_its_text() {
        assert_eq!(quoted("a\"];b\\"), "\"a\\\"];b\\\\\"");
        assert_eq!(quoted("a\nb"), "\"a\\\\nb\"");
        assert_eq!(entities("a\"]; <b>"), "a#34;#93;#59; #60;b#62;");
    }
}
