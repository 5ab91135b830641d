//! Measures every bar and prints the table; `--help` lists what can be measured.
//!
//! `BLACKSTART_BIN` says which binary is measured. Exit code 1 if a deterministic bar is missed.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use blackstart_lab::bench::{Results, SUITES, Scale, Scene};
use clap::{CommandFactory, Parser, error::ErrorKind};

/// Measure the bars and print the table
#[derive(Parser)]
#[command(after_help = listing())]
struct Arguments {
    /// Also write the raw results to DIR/DATE-SUITE.json: of a whole suite only
    #[arg(long, value_name = "DIR", conflicts_with_all = ["quick", "parts"])]
    write: Option<PathBuf>,
    /// A small part of everything, to see that the suite works
    #[arg(long)]
    quick: bool,
    /// Which suite
    #[arg(default_value = SUITES[0].name, value_parser = SUITES.iter().map(|suite| suite.name).collect::<Vec<_>>())]
    suite: String,
    /// Which parts of it; all if none is given
    parts: Vec<String>,
}

fn listing() -> String {
    let suites = SUITES.iter().map(|suite| {
        let parts: Vec<_> = suite.parts.iter().map(|(name, _)| *name).collect();
        format!("\n  {:<10} {}", suite.name, parts.join(" "))
    });
    format!("Suites and their parts:{}", suites.collect::<String>())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let suite = SUITES
        .iter()
        .find(|suite| suite.name == arguments.suite)
        .expect("clap lets no other name through");
    let wanted = &arguments.parts;
    if let Some(unknown) = wanted
        .iter()
        .find(|wanted| suite.parts.iter().all(|(name, _)| name != wanted))
    {
        let why = format!(
            "{} has no part that is called {unknown}\n\n{}\n",
            suite.name,
            listing()
        );
        Arguments::command()
            .error(ErrorKind::InvalidValue, why)
            .exit();
    }
    let scale = if arguments.quick {
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
    if arguments.quick {
        println!("a quick look: no figure of these counts");
    }
    if let Some(dir) = &arguments.write {
        println!("written to {}", results.write(dir, suite.name).display());
    }
    if results.gate() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
