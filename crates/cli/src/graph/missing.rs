//! What a result lacks, said in every form of it: whoever is handed a document does not see what was said on
//! standard error when it was made.

use blackstart_core::graph::Graph;
use serde_json::{Value, json};

use crate::plain::{Paint, plain};
use crate::summary::counted;

/// No more runs are named.
const NAMES: usize = 5;

/// What a result lacks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing<'a> {
    /// Some file could not be read in full.
    pub(super) partial: bool,
    /// Ids of runs that do not say what they deploy.
    pub(super) unassigned: &'a [String],
}

impl<'a> Missing<'a> {
    pub(super) fn of(graph: &'a Graph, partial: bool) -> Self {
        Self {
            partial,
            unassigned: graph.unassigned(),
        }
    }

    /// A sentence for each thing; none where all is there.
    pub(super) fn sentences(&self) -> Vec<String> {
        let partial = self.partial.then(|| {
            "this is partial: some file that was named could not be read in full".to_owned()
        });
        partial.into_iter().chain(self.nobodys()).collect()
    }

    /// Of runs that are nobody's.
    pub(super) fn nobodys(&self) -> Option<String> {
        let count = self.unassigned.len();
        if count == 0 {
            return None;
        }
        let named = self.unassigned.iter().take(NAMES).map(|id| plain(id));
        let named = named.collect::<Vec<_>>().join(", ");
        let more = match count.checked_sub(NAMES + 1) {
            Some(more) => format!(" and {} more", more + 1),
            None => String::new(),
        };
        let runs = counted(count as u64, "run");
        let say = if count == 1 { "does" } else { "do" };
        Some(format!(
            "{runs} {say} not say what was deployed, and what was reached for is left out; run with --service NAME: {named}{more}"
        ))
    }

    /// Lines below a text for people.
    pub(super) fn below(&self, mut text: String, paint: Paint) -> String {
        for sentence in self.sentences() {
            text.push_str(&paint.doubtful(&sentence));
            text.push('\n');
        }
        text
    }

    /// Into a document for programs.
    pub(super) fn into(self, document: &mut Value) {
        document["partial"] = self.partial.into();
        document["unassigned_runs"] = json!(self.unassigned);
    }
}
