//! Compiles the BPF programs and generates the Rust side of their maps, keys and values from BTF.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use libbpf_cargo::SkeletonBuilder;

/// clang 14 lays out loops with fall-through back edges that 6.1's verifier refuses; 19 is the oldest that
/// every kernel of the matrix was tried with.
const OLDEST_CLANG: u32 = 19;

/// The run's programs, those that many guards share, and those that only tests load: whether tests are being built, a build
/// script is not told.
const OBJECTS: [(&str, &str); 3] = [
    ("blackstart.bpf.c", "blackstart.skel.rs"),
    ("tracer.bpf.c", "tracer.skel.rs"),
    ("tests/trial.bpf.c", "trial.skel.rs"),
];

fn main() {
    let bpf = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("bpf");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    println!("cargo::rerun-if-changed={}", bpf.display());
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = clang();
    // With it the tests build the parsers for the host.
    println!("cargo::rustc-env=BLACKSTART_CLANG={clang}");
    let include = format!("-I{}", bpf.display());
    for (source, skeleton) in OBJECTS {
        SkeletonBuilder::new()
            .source(bpf.join(source))
            .clang(&clang)
            .clang_args(["-mcpu=v3", "-Wall", "-Werror", include.as_str()])
            .build_and_generate(out.join(skeleton))
            .unwrap_or_else(|error| panic!("failed to build {source} with {clang}: {error:#}"));
    }
}

/// `$CLANG`, or the newest clang on the path that is new enough.
fn clang() -> String {
    if let Ok(named) = env::var("CLANG") {
        return named;
    }
    let versioned = (OLDEST_CLANG..=OLDEST_CLANG + 6)
        .rev()
        .map(|v| format!("clang-{v}"));
    let mut candidates: Vec<String> = versioned.collect();
    candidates.push("clang".to_owned());
    candidates
        .into_iter()
        .find(|clang| major(clang).is_some_and(|major| major >= OLDEST_CLANG))
        .unwrap_or_else(|| {
            panic!("no clang {OLDEST_CLANG} or newer: run scripts/install-deps, or set CLANG")
        })
}

/// Major version of a clang binary, if it runs at all.
fn major(clang: &str) -> Option<u32> {
    let output = Command::new(clang).arg("-dumpversion").output().ok()?;
    String::from_utf8(output.stdout)
        .ok()?
        .trim()
        .split('.')
        .next()?
        .parse()
        .ok()
}
