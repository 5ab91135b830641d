//! The drawing of the circles and what lies next to them.
//!
//! Which services are drawn is decided here; where they lie, by dugong (a port of dagre, the layout of many
//! drawing libraries for browsers). It is given an allowance of steps: a graph that takes more is not drawn, and
//! the words below the drawing say the same.

use std::collections::{BTreeMap, BTreeSet};

use blackstart_core::catalog::Strength;
use blackstart_core::graph::{Graph, Kind, NeedId, NodeId};
use dugong::graphlib::{Graph as Layout, GraphOptions};
use dugong::{EdgeLabel, GraphLabel, NodeLabel, Point, RankDir, WorkControl, WorkError};

use crate::plain::{cut, plain};

/// No more are drawn: nobody reads a larger drawing.
const NODES: usize = 60;
const LINES: usize = 150;
/// In the layout's own units; a few tens of milliseconds.
const ALLOWANCE: usize = 20_000_000;

/// The width of a letter of the drawing's font, and other measures, in pixels.
const LETTER: f64 = 7.3;
const SMALL_LETTER: f64 = 6.1;
const HEIGHT: f64 = 34.0;
const LABEL_HEIGHT: f64 = 14.0;
const MARGIN: f64 = 12.0;
const NAME: usize = 30;

/// What is drawn, and the same in words.
#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) tiles: Vec<Tile>,
    pub(super) lines: Vec<Line>,
    /// Next to what is drawn, and not drawn.
    pub(super) left_out: usize,
    /// Circles that are not drawn: there is no room for them.
    pub(super) circles_left_out: usize,
}

/// A service or a destination.
#[derive(Debug)]
pub(super) struct Tile {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) name: String,
    pub(super) whole: String,
    pub(super) class: &'static str,
}

impl Tile {
    /// Where its text is centred.
    pub(super) fn middle(&self) -> f64 {
        round(self.x + self.width / 2.0)
    }

    pub(super) fn baseline(&self) -> f64 {
        round(self.y + self.height / 2.0 + 4.0)
    }
}

/// All needs of one service of another.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) from: String,
    pub(super) to: String,
    /// `deploy`, `run, hard`.
    pub(super) label: String,
    pub(super) on_circle: bool,
    /// A run was seen to.
    pub(super) seen: bool,
    pub(super) path: String,
    pub(super) label_at: Option<(f64, f64)>,
}

/// What to draw.
#[derive(Debug, Default, PartialEq, Eq)]
struct Selection {
    nodes: BTreeSet<NodeId>,
    on_circle: BTreeSet<NodeId>,
    /// From and to; true if it lies on a circle.
    pairs: BTreeMap<(NodeId, NodeId), bool>,
    left_out: usize,
    circles_left_out: usize,
}

impl Picture {
    /// Of all circles and what lies next to them. Without circles: of what `focus` needs, or of all, if that is
    /// not too much. Nothing is drawn of a layout that failed, but the words are there.
    pub(super) fn of(graph: &Graph, circles: &[&[NeedId]], focus: Option<NodeId>) -> Self {
        let selection = select(graph, circles, focus);
        let mut picture = described(graph, &selection, focus);
        picture.lay_out();
        picture
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tiles.is_empty()
    }

    /// Was it laid out?
    pub(super) fn is_drawn(&self) -> bool {
        self.width > 0
    }

    pub(super) fn has_circles(&self) -> bool {
        self.lines.iter().any(|line| line.on_circle)
    }

    fn lay_out(&mut self) {
        if self.tiles.is_empty() {
            return;
        }
        let mut layout: Layout<NodeLabel, EdgeLabel, GraphLabel> = Layout::new(GraphOptions {
            multigraph: false,
            compound: false,
            directed: true,
        });
        layout.set_graph(GraphLabel {
            rankdir: RankDir::LR,
            nodesep: 22.0,
            edgesep: 14.0,
            ranksep: 44.0,
            marginx: MARGIN,
            marginy: MARGIN,
            ..GraphLabel::default()
        });
        let ids: BTreeMap<&str, String> = self
            .tiles
            .iter()
            .enumerate()
            .map(|(at, it)| (it.whole.as_str(), format!("n{at}")))
            .collect();
        for it in &self.tiles {
            let label = NodeLabel {
                width: it.width,
                height: it.height,
                ..NodeLabel::default()
            };
            layout.set_node(ids[it.whole.as_str()].clone(), label);
        }
        for line in &self.lines {
            let label = EdgeLabel {
                width: line.label.chars().count() as f64 * SMALL_LETTER + 16.0,
                height: LABEL_HEIGHT,
                // What circles are made of is kept short and straight.
                weight: if line.on_circle { 4.0 } else { 1.0 },
                ..EdgeLabel::default()
            };
            layout.set_edge_with_label(
                ids[line.from.as_str()].clone(),
                ids[line.to.as_str()].clone(),
                label,
            );
        }
        if dugong::layout_controlled(&mut layout, &mut Allowance(ALLOWANCE)).is_err() {
            return;
        }
        let mut whole = Extent::default();
        let mut places = Vec::with_capacity(self.tiles.len());
        for it in &self.tiles {
            let node = layout.node(&ids[it.whole.as_str()]);
            let Some((x, y)) = node.and_then(|node| node.x.zip(node.y)) else {
                return;
            };
            whole.add(x + it.width / 2.0, y + it.height / 2.0);
            places.push((x - it.width / 2.0, y - it.height / 2.0));
        }
        let mut paths = Vec::with_capacity(self.lines.len());
        for line in &self.lines {
            let (from, to) = (&ids[line.from.as_str()], &ids[line.to.as_str()]);
            let Some(edge) = layout.edge(from, to, None) else {
                return;
            };
            edge.points
                .iter()
                .for_each(|point| whole.add(point.x, point.y));
            paths.push((curve(&edge.points), edge.x.zip(edge.y)));
        }
        for (it, (x, y)) in self.tiles.iter_mut().zip(places) {
            (it.x, it.y) = (round(x), round(y));
        }
        for (line, (path, label_at)) in self.lines.iter_mut().zip(paths) {
            line.path = path;
            line.label_at = label_at.map(|(x, y)| (round(x), round(y)));
        }
        self.width = whole.x;
        self.height = whole.y;
    }
}

/// How far to the right and down something was drawn.
#[derive(Default)]
struct Extent {
    x: u32,
    y: u32,
}

impl Extent {
    fn add(&mut self, x: f64, y: f64) {
        let whole = |value: f64| (value + MARGIN).ceil().clamp(0.0, 100_000.0) as u32;
        self.x = self.x.max(whole(x));
        self.y = self.y.max(whole(y));
    }
}

/// Steps that may still be taken.
struct Allowance(usize);

impl WorkControl for Allowance {
    fn charge(&mut self, units: usize) -> Result<(), WorkError> {
        self.0 = self.0.checked_sub(units).ok_or(WorkError::Interrupted)?;
        Ok(())
    }
}

fn select(graph: &Graph, circles: &[&[NeedId]], focus: Option<NodeId>) -> Selection {
    let mut chosen = Selection::default();
    for steps in circles {
        let ends = |id: &NeedId| [graph.need(*id).from, graph.need(*id).to];
        let mut more = chosen.nodes.clone();
        more.extend(steps.iter().flat_map(ends));
        if more.len() > NODES {
            chosen.circles_left_out += 1;
            continue;
        }
        chosen.nodes = more;
        for id in *steps {
            let [from, to] = ends(id);
            chosen.pairs.insert((from, to), true);
        }
    }
    chosen.on_circle = chosen.nodes.clone();
    let core = match (chosen.nodes.is_empty(), focus) {
        (true, Some(focus)) => BTreeSet::from([focus]),
        (true, None) if graph.nodes().len() <= NODES => graph.ids().collect(),
        _ => chosen.nodes.clone(),
    };
    chosen.nodes.extend(&core);
    // What was seen comes before what is only said, and what is needed before what needs.
    let mut beside: BTreeSet<(bool, bool, NodeId)> = BTreeSet::new();
    for need in graph.needs() {
        let unseen = need.contacts().next().is_none();
        match (core.contains(&need.from), core.contains(&need.to)) {
            (true, false) => drop(beside.insert((unseen, false, need.to))),
            (false, true) => drop(beside.insert((unseen, true, need.from))),
            _ => {}
        }
    }
    for (_, _, id) in beside {
        if chosen.nodes.len() < NODES {
            chosen.nodes.insert(id);
        } else if !chosen.nodes.contains(&id) {
            chosen.left_out += 1;
        }
    }
    for need in graph.needs() {
        let pair = (need.from, need.to);
        let drawn = chosen.nodes.contains(&need.from) && chosen.nodes.contains(&need.to);
        if drawn && !chosen.pairs.contains_key(&pair) {
            if chosen.pairs.len() < LINES {
                chosen.pairs.insert(pair, false);
            } else {
                chosen.left_out += 1;
            }
        }
    }
    chosen
}

/// Everything but where it lies.
fn described(graph: &Graph, selection: &Selection, focus: Option<NodeId>) -> Picture {
    // Two nodes may have the same name: a service, and a destination that is called like it.
    let whole = |id: NodeId| {
        let node = graph.node(id);
        match node.kind {
            Kind::Destination if graph.find(&node.name).is_some() => {
                format!("{} (destination)", plain(&node.name))
            }
            _ => plain(&node.name),
        }
    };
    let tiles = selection.nodes.iter().map(|&id| {
        let name = cut(&whole(id), NAME);
        Tile {
            x: 0.0,
            y: 0.0,
            width: (name.chars().count() as f64 * LETTER + 24.0).max(60.0),
            height: HEIGHT,
            whole: whole(id),
            class: match (graph.node(id).kind, selection.on_circle.contains(&id)) {
                (_, true) if focus == Some(id) => "loop focus",
                (_, true) => "loop",
                (Kind::Destination, _) => "destination",
                _ if focus == Some(id) => "focus",
                _ => "service",
            },
            name,
        }
    });
    let lines = selection.pairs.iter().map(|(&(from, to), &on_circle)| {
        let needs: Vec<_> = graph.between(from, to).map(|id| graph.need(id)).collect();
        let words: Vec<String> = needs
            .iter()
            .map(|need| {
                let strength = match need.strength() {
                    Some(Strength::Hard) => ", hard",
                    Some(Strength::Soft) => ", soft",
                    None => "",
                };
                format!("{}{strength}", need.phase)
            })
            .collect();
        Line {
            from: whole(from),
            to: whole(to),
            label: words.join(" + "),
            on_circle,
            seen: needs.iter().any(|need| need.contacts().next().is_some()),
            path: String::new(),
            label_at: None,
        }
    });
    Picture {
        tiles: tiles.collect(),
        lines: lines.collect(),
        left_out: selection.left_out,
        circles_left_out: selection.circles_left_out,
        ..Picture::default()
    }
}

/// A line through the first and the last point, and along those between: a cubic B-spline, as drawings by dagre
/// usually have it.
fn curve(points: &[Point]) -> String {
    let xy = |x: f64, y: f64| format!("{},{}", round(x), round(y));
    let at = |point: &Point| xy(point.x, point.y);
    let [first, .., last] = points else {
        return String::new();
    };
    let mut path = format!("M{}", at(first));
    if points.len() == 2 {
        return format!("{path}L{}", at(last));
    }
    let part = |a: &Point, b: &Point, of_b: f64| {
        let of_a = 1.0 - of_b;
        (a.x * of_a + b.x * of_b, a.y * of_a + b.y * of_b)
    };
    let (x, y) = part(&points[0], &points[1], 1.0 / 6.0);
    path.push_str(&format!("L{}", xy(x, y)));
    for corner in points.windows(3) {
        let [a, b, c] = corner else { continue };
        let (one, two) = (part(a, b, 1.0 / 3.0), part(a, b, 2.0 / 3.0));
        let next = part(b, c, 1.0 / 3.0);
        let end = ((two.0 + next.0) / 2.0, (two.1 + next.1) / 2.0);
        path.push_str(&format!(
            "C{} {} {}",
            xy(one.0, one.1),
            xy(two.0, two.1),
            xy(end.0, end.1)
        ));
    }
    let before = &points[points.len() - 2];
    let (one, two) = (part(before, last, 1.0 / 3.0), part(before, last, 2.0 / 3.0));
    path.push_str(&format!(
        "C{} {} {}",
        xy(one.0, one.1),
        xy(two.0, two.1),
        at(last)
    ));
    path
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
