//! The world of the demo: makes its machines and servers, and plays `examples/demo/play.sh` on its host.
//!
//! `blackstart-demo-world BLACKSTART [REPORTS]`: the binary to play with, and the directory for the
//! reports (`target/demo` if it is not given).
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use blackstart_lab::workspace;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let Some(blackstart) = arguments.next() else {
        eprintln!("blackstart-demo-world: say which blackstart binary to play with");
        return ExitCode::from(2);
    };
    let blackstart = fs::canonicalize(&blackstart)
        .unwrap_or_else(|e| panic!("find {}: {e}", blackstart.display()));
    let reports = arguments
        .next()
        .unwrap_or_else(|| workspace::root().join("target/demo"));
    fs::create_dir_all(&reports).expect("make the directory for the reports");
    let reports = fs::canonicalize(&reports).expect("find the directory for the reports");
    let demo = workspace::root().join("examples/demo");

    let world = blackstart_lab::demo::world("demo");
    let status = world
        .host()
        .command(&[demo.join("play.sh").display().to_string()])
        .env("BLACKSTART", &blackstart)
        .env("BLACKSTART_STATE", world.dir().join("state"))
        .env("REPORTS", &reports)
        .status()
        .expect("start the play");
    // The world goes before its exit code is told.
    drop(world);
    ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}
