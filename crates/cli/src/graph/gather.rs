//! The files that a graph is made of.

use std::fs;
use std::path::{Path, PathBuf};

use blackstart_core::catalog::{Catalog, Phase};
use blackstart_core::graph::{Graph, Input, Observed, build};
use blackstart_core::report::{Report, SCHEMA_VERSION};

use crate::diagnostics;
use crate::layers::Files;
use crate::plain::{Paint, plain};

/// Longer reports are not read.
const MOST_BYTES: u64 = 512 << 20;

/// What was read, and what could not be.
pub(super) struct Gathered {
    catalog: Option<Catalog>,
    reports: Vec<Report>,
    of_catalog: Files,
    of_runs: Vec<String>,
    /// The first file that was read.
    first: Option<String>,
    /// Something is missing.
    pub(super) partial: bool,
}

impl Gathered {
    /// Nothing that cannot be read keeps the rest from being read.
    pub(super) fn read(catalog: Option<&Path>, runs: &[PathBuf]) -> Self {
        let mut of_catalog = Files::default();
        let reading = catalog.map(|path| of_catalog.catalog(path));
        let mut partial = reading.as_ref().is_some_and(|reading| reading.partial);
        let mut of_runs = Vec::new();
        let mut files = Vec::new();
        for path in runs {
            list(path, true, &mut files, &mut of_runs);
        }
        let reports = files
            .iter()
            .filter_map(|path| {
                let read = report(path);
                read.map_err(|why| of_runs.push(cannot(path, &why))).ok()
            })
            .collect();
        partial |= !of_runs.is_empty();
        let first = of_catalog.texts.keys().next().cloned();
        let first = first.or_else(|| Some(files.first()?.to_string_lossy().into_owned()));
        // A catalog of which no file could be read is none.
        let catalog = reading
            .filter(|_| !of_catalog.texts.is_empty())
            .map(|reading| reading.catalog);
        Self {
            catalog,
            reports,
            of_catalog,
            of_runs,
            first,
            partial,
        }
    }

    /// Was there nothing that a graph could be made of?
    pub(super) fn is_empty(&self) -> bool {
        self.catalog.is_none() && self.reports.is_empty()
    }

    /// A file to point at where nothing closer is known.
    pub(super) fn source(&self) -> Option<&str> {
        self.first.as_deref()
    }

    /// Everything that is wrong.
    pub(super) fn problems(&self, paint: Paint) -> String {
        let files = &self.of_catalog;
        let mut text = diagnostics::human(&files.diagnostics, &files.texts, paint);
        for message in files.messages.iter().chain(&self.of_runs) {
            text.push_str(&format!(
                "blackstart: {} {}\n",
                paint.doubtful("warning:"),
                plain(message)
            ));
        }
        text
    }

    /// The graph.
    pub(super) fn graph(&self) -> Graph {
        let runs: Vec<Observed<'_>> = self
            .reports
            .iter()
            .map(|report| Observed {
                report,
                // What is attached to runs already.
                phase: match report.run.attached {
                    Some(_) => Phase::Run,
                    None => Phase::Deploy,
                },
            })
            .collect();
        build(&Input {
            catalog: self.catalog.as_ref().unwrap_or(&Catalog::default()),
            runs: &runs,
            imports: &[],
        })
    }

    /// What to say of a service that is not there.
    pub(super) fn unknown(&self, name: &str) -> String {
        let near = self
            .catalog
            .as_ref()
            .and_then(|catalog| catalog.named(name).err()?.nearest);
        match near {
            Some(near) => format!("no service is called {name:?}; did you mean {near:?}?"),
            None => format!(
                "no service is called {name:?}: neither a file of the catalog nor a run names it"
            ),
        }
    }
}

fn cannot(path: &Path, why: &dyn std::fmt::Display) -> String {
    format!("cannot read the report {}: {why}", path.display())
}

/// A file, or every `*.json` in a directory and in those below it, links to directories left out.
fn list(path: &Path, named: bool, files: &mut Vec<PathBuf>, problems: &mut Vec<String>) {
    let metadata = if named {
        fs::metadata(path)
    } else {
        fs::symlink_metadata(path)
    };
    let is_directory = match metadata {
        Ok(metadata) => metadata.is_dir(),
        Err(error) => return problems.push(cannot(path, &error)),
    };
    if !is_directory {
        let is_json = path.extension().is_some_and(|ending| ending == "json");
        if named || is_json {
            files.push(path.to_owned());
        }
        return;
    }
    let entries = fs::read_dir(path).and_then(|listed| {
        let paths = listed.map(|entry| Ok(entry?.path()));
        paths.collect::<std::io::Result<Vec<_>>>()
    });
    match entries {
        Ok(mut entries) => {
            entries.sort();
            for entry in entries {
                let hidden = entry
                    .file_name()
                    .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                if !hidden {
                    list(&entry, false, files, problems);
                }
            }
        }
        Err(error) => problems.push(cannot(path, &error)),
    }
}

fn report(path: &Path) -> Result<Report, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    if metadata.len() > MOST_BYTES {
        return Err(format!("it is larger than {} MiB", MOST_BYTES >> 20));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let parsed = serde_json::from_slice::<Report>(&bytes);
    let version = match &parsed {
        Ok(report) => Some(u64::from(report.schema_version)),
        Err(_) => serde_json::from_slice::<serde_json::Value>(&bytes)
            .ok()
            .and_then(|value| value.get("schema_version")?.as_u64()),
    };
    if let Some(version) = version.filter(|version| *version > u64::from(SCHEMA_VERSION)) {
        return Err(format!(
            "it has schema version {version}, and this blackstart reads versions up to {SCHEMA_VERSION}; use a newer one"
        ));
    }
    parsed
        .map_err(|error| format!("it is not a report of `blackstart run`, or was cut off: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_takes_nothing_from_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir(dir.join("runs")).unwrap();
        fs::write(
            dir.join("runs/cut.json"),
            "{\"schema_version\": 1, \"run\":",
        )
        .unwrap();
        fs::write(dir.join("runs/newer.json"), "{\"schema_version\": 99}").unwrap();
        fs::write(dir.join("runs/other.json"), "[]").unwrap();
        fs::write(dir.join("runs/notes.txt"), "no report").unwrap();
        fs::write(
            dir.join("c.yaml"),
            "apiVersion: blackstart.dev/v1\nkind: Service\nname: a\n",
        )
        .unwrap();
        let read = Gathered::read(
            Some(&dir.join("c.yaml")),
            &[dir.join("runs"), dir.join("absent.json")],
        );
        assert!(read.partial && !read.is_empty());
        assert_eq!(read.graph().nodes().len(), 1);
        let problems = read.problems(Paint::None);
        for wanted in [
            "absent.json: No such file",
            "cut.json: it is not a report of `blackstart run`, or was cut off: EOF",
            "newer.json: it has schema version 99",
            "other.json: it is not a report",
        ] {
            assert!(problems.contains(wanted), "{wanted}: {problems}");
        }
        assert!(!problems.contains("notes.txt"));
    }
}
