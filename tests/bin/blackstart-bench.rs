//! Measures every bar and prints the table.
//!
//! `blackstart-bench DIR [SUITE] [PART...]`: writes the raw results to `DIR/DATE-SUITE.json` when every part was measured.
//! `blackstart-bench --quick [SUITE] [PART...]`: a small part of everything, to see that the suite works; writes nothing.
//!
//! `BLACKSTART_BIN` says which binary is measured. Exit code 1 if a deterministic bar is missed.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use blackstart_lab::bench::{Results, SUITES, Scale, Scene};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let Some(first) = arguments.next() else {
        eprintln!("blackstart-bench: say where the results are to be written, or --quick");
        return ExitCode::from(2);
    };
    let named = |word: &String| SUITES.iter().find(|suite| suite.name == word);
    let suite = arguments.peek().and_then(named);
    if suite.is_some() {
        arguments.next();
    }
    let suite = suite.unwrap_or(&SUITES[0]);
    let wanted: Vec<String> = arguments.collect();
    if let Some(unknown) = wanted
        .iter()
        .find(|wanted| suite.parts.iter().all(|(name, _)| name != wanted))
    {
        let names: Vec<_> = suite.parts.iter().map(|(name, _)| *name).collect();
        eprintln!(
            "blackstart-bench: no part of {} is called {unknown}; there are {}",
            suite.name,
            names.join(", ")
        );
        return ExitCode::from(2);
    }
    let scale = if first == "--quick" {
        Scale::Quick
    } else {
        Scale::Full
    };
    let scene = Scene::new(scale);
    let mut results = Results::default();
    for (name, measure) in suite.parts {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            measure(&scene, &mut results);
        }
    }
    drop(scene);
    println!("{results}");
    if scale == Scale::Quick {
        println!("a quick look: no figure of these counts, and nothing was written");
    } else if wanted.is_empty() {
        let path = results.write(Path::new(&first), suite.name);
        println!("written to {}", path.display());
    }
    if results.gate() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
