//! `blackstart graph`: from files to what is asked of the graph.

mod document;
mod export;
mod gate;
mod gather;
mod human;
mod import;
mod missing;

use blackstart_core::graph::findings::findings;
use blackstart_core::graph::impact::impact;
use blackstart_core::graph::loops::{deadlocks, loops};
use blackstart_core::graph::recovery::Recovery;
use blackstart_core::graph::{Graph, NodeId};

use self::gather::Gathered;
use self::missing::Missing;
use crate::args::{self, Format, GraphCheck, GraphOf, Language};
use crate::catalog_files::Places;
use crate::output::Output;
use crate::plain::plain;
use crate::reference::catalog_schema;
use crate::{FAILED, finish};

/// Some file could not be read in full.
const PARTIAL: u8 = 1;

/// Does what was typed, and says how to exit.
pub(crate) fn graph(typed: &args::Graph, output: Output) -> u8 {
    use args::Graph;
    match typed {
        Graph::Show(typed) => with(&typed.of, output, |whole| {
            whole.show(&typed.services, typed.format, output)
        }),
        Graph::Loops(typed) => with(&typed.of, output, |whole| {
            whole.loops(&typed.protect, typed.format, output)
        }),
        Graph::Order(typed) => with(&typed.of, output, |whole| {
            Ok(whole.order(typed.format, output))
        }),
        Graph::Impact(typed) => with(&typed.of, output, |whole| {
            whole.impact(&typed.down, typed.format, output)
        }),
        Graph::Export(typed) => with(&typed.of, output, |whole| {
            whole.export(typed.to).map_err(|why| vec![why])
        }),
        Graph::Check(typed) => match gathered(&typed.of, output) {
            Some(gathered) => {
                let graph = gathered.graph();
                tell(&graph, output);
                Whole::of(&gathered, &graph).check(typed, output)
            }
            None => FAILED,
        },
        Graph::Import(typed) => import::import(typed, output),
        Graph::Schema => finish(output, &catalog_schema(), 0),
    }
}

/// Shows what `ask` makes of the graph; everything that is wrong with what was asked is told.
fn with(
    of: &GraphOf,
    output: Output,
    ask: impl FnOnce(&Whole<'_>) -> Result<String, Vec<String>>,
) -> u8 {
    let Some(gathered) = gathered(of, output) else {
        return FAILED;
    };
    let graph = gathered.graph();
    tell(&graph, output);
    let whole = Whole::of(&gathered, &graph);
    match ask(&whole) {
        Ok(text) => finish(output, &text, whole.code()),
        Err(messages) => {
            messages
                .iter()
                .for_each(|message| output.error(&plain(message)));
            FAILED
        }
    }
}

/// Everything that is wrong with the files is shown. None if there is nothing to make a graph of.
fn gathered(of: &GraphOf, output: Output) -> Option<Gathered> {
    let nearest = || {
        let path = Places::of_process().nearest()?;
        let shown = plain(&path.to_string_lossy());
        output.say(&format!("blackstart: the catalog is {shown}\n"));
        Some(path)
    };
    let catalog = of.catalog.clone().or_else(nearest);
    if catalog.is_none() && of.runs.is_empty() {
        output.error("there is nothing to look at: name a catalog with --catalog DIR, reports with --runs FILE, or both");
        return None;
    }
    let gathered = Gathered::read(catalog.as_deref(), &of.runs);
    output.say(&gathered.problems(output.err));
    if gathered.is_empty() {
        output.error("nothing that was named could be read");
        return None;
    }
    if gathered.partial {
        output.warning("the result is partial: see what is said above");
    }
    Some(gathered)
}

/// What a report does not say of its run leaves it out of everything.
fn tell(graph: &Graph, output: Output) {
    if let Some(sentence) = Missing::of(graph, false).nobodys() {
        output.warning(&sentence);
    }
}

/// The graph, and what it was made of.
struct Whole<'a> {
    graph: &'a Graph,
    gathered: &'a Gathered,
}

impl<'a> Whole<'a> {
    fn of(gathered: &'a Gathered, graph: &'a Graph) -> Self {
        Self { graph, gathered }
    }

    fn code(&self) -> u8 {
        if self.gathered.partial { PARTIAL } else { 0 }
    }

    /// The services with these names; every one that is not there is told.
    fn services(&self, names: &[String]) -> Result<Vec<NodeId>, Vec<String>> {
        let mut found = Vec::new();
        let mut unknown = Vec::new();
        for name in names {
            match self.graph.find(name) {
                Some(id) => found.push(id),
                None => unknown.push(self.gathered.unknown(name)),
            }
        }
        found.sort_unstable();
        found.dedup();
        if unknown.is_empty() {
            Ok(found)
        } else {
            Err(unknown)
        }
    }

    fn show(
        &self,
        services: &[String],
        format: Format,
        output: Output,
    ) -> Result<String, Vec<String>> {
        let only = self.services(services)?;
        let shown = |id: &NodeId| only.is_empty() || only.contains(id);
        let nodes: Vec<NodeId> = self
            .graph
            .ids()
            .filter(|id| self.graph.node(*id).is_service() && shown(id))
            .collect();
        Ok(match format {
            Format::Human => self.said(human::services(self.graph, &nodes, output.out), output),
            Format::Json => self.written(document::services(self.graph, &nodes)),
        })
    }

    fn loops(
        &self,
        protect: &[String],
        format: Format,
        output: Output,
    ) -> Result<String, Vec<String>> {
        let protect = self.services(protect)?;
        let recovery = Recovery::of(self.graph);
        let found = loops(self.graph, &recovery, &protect);
        Ok(match format {
            Format::Human => {
                let deadlocks = deadlocks(self.graph, &recovery);
                self.said(
                    human::loops(self.graph, &found, &deadlocks, output.out),
                    output,
                )
            }
            Format::Json => self.written(document::loops(self.graph, &recovery, &found)),
        })
    }

    fn order(&self, format: Format, output: Output) -> String {
        let recovery = Recovery::of(self.graph);
        let cuts = recovery.cuts(self.graph);
        let cut: Vec<_> = cuts.iter().flat_map(|cut| cut.needs.clone()).collect();
        let after = (!cut.is_empty()).then(|| Recovery::without(self.graph, &cut));
        let order = human::Order {
            graph: self.graph,
            recovery: &recovery,
            cuts: &cuts,
            after: after.as_ref(),
        };
        match format {
            Format::Human => self.said(order.human(output.out), output),
            Format::Json => self.written(document::order(&order)),
        }
    }

    fn impact(
        &self,
        down: &[String],
        format: Format,
        output: Output,
    ) -> Result<String, Vec<String>> {
        let down = self.services(down)?;
        let found = impact(self.graph, &down);
        Ok(match format {
            Format::Human => {
                self.said(human::impact(self.graph, &down, &found, output.out), output)
            }
            Format::Json => self.written(document::impact(self.graph, &down, &found)),
        })
    }

    fn export(&self, to: Language) -> Result<String, String> {
        let recovery = Recovery::of(self.graph);
        let found = loops(self.graph, &recovery, &[]);
        let circles = || export::circles(&found, &deadlocks(self.graph, &recovery));
        Ok(match to {
            Language::Json => self.written(document::graph(self.graph, &recovery, &found)),
            Language::Dot => export::dot(self.graph, &circles(), self.missing()),
            Language::Mermaid => export::mermaid(self.graph, &circles(), self.missing()),
            Language::Html => export::html(self.graph, &recovery, &found, self.gathered.partial)?,
        })
    }

    fn check(&self, typed: &GraphCheck, output: Output) -> u8 {
        let protect = match self.services(&typed.protect) {
            Ok(protect) => protect,
            Err(messages) => {
                messages
                    .iter()
                    .for_each(|message| output.error(&plain(message)));
                return FAILED;
            }
        };
        let recovery = Recovery::of(self.graph);
        let loops = loops(self.graph, &recovery, &protect);
        let found = findings(self.graph, &recovery, &loops);
        let given = gate::Given {
            graph: self.graph,
            found: &found,
            missing: self.missing(),
            source: self.gathered.source(),
        };
        gate::check(typed, given, output)
    }

    fn missing(&self) -> Missing<'_> {
        Missing::of(self.graph, self.gathered.partial)
    }

    /// A text for people, with what it lacks.
    fn said(&self, text: String, output: Output) -> String {
        self.missing().below(text, output.out)
    }

    /// A document, versioned, that says what it lacks.
    fn written(&self, mut document: serde_json::Value) -> String {
        document["schema_version"] = 1.into();
        self.missing().into(&mut document);
        format!("{document:#}\n")
    }
}
