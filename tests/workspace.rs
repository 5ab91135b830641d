//! The workspace keeps its own rules: these tests need no root and no built binary.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use blackstart_lab::cases::CASES;
use blackstart_lab::coverage::{self, lacks, parse};
use blackstart_lab::program;
use blackstart_lab::workspace::{metadata, root};

/// Which crate of the workspace may use which others, directly.
const DIRECTION: &[(&str, &[&str])] = &[
    ("blackstart-suffix", &[]),
    ("blackstart-core", &["blackstart-suffix"]),
    ("blackstart-kernel", &["blackstart-core"]),
    (
        "blackstart-guard",
        &["blackstart-core", "blackstart-kernel"],
    ),
    // No run needs the history, and the history needs nothing that a run is made of.
    ("blackstart-store", &["blackstart-core"]),
    // No run needs what tells others of it; it has the only HTTP client.
    ("blackstart-notify", &["blackstart-core"]),
    (
        "blackstart",
        &[
            "blackstart-core",
            "blackstart-guard",
            "blackstart-store",
            "blackstart-notify",
        ],
    ),
    // The lab drives the binary, and reads its reports with core's types.
    ("blackstart-lab", &["blackstart-core"]),
];

#[test]
fn every_file_of_tests_is_a_target() {
    let metadata = metadata();
    let targets: BTreeSet<PathBuf> = metadata
        .packages
        .iter()
        .flat_map(|package| &package.targets)
        .map(|target| target.src_path.clone().into())
        .collect();
    let mut seen = 0;
    for entry in fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let main = path.join("main.rs");
        let file = if main.exists() { main } else { path };
        if file.extension().is_some_and(|it| it == "rs") {
            assert!(targets.contains(&file), "{} runs never", file.display());
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn crates_depend_in_one_direction_only() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> = DIRECTION
        .iter()
        .map(|(name, uses)| (*name, uses.iter().copied().collect()))
        .collect();
    let metadata = metadata();
    let ours: BTreeSet<&str> = metadata
        .packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    assert_eq!(
        ours,
        allowed.keys().copied().collect(),
        "crates in the workspace, and in DIRECTION"
    );
    for package in &metadata.packages {
        for used in package
            .dependencies
            .iter()
            .map(|dependency| dependency.name.as_str())
        {
            assert!(
                !ours.contains(used) || allowed[package.name.as_str()].contains(used),
                "{} must not use {used}",
                package.name
            );
        }
    }
}

#[test]
fn only_the_kernel_crate_uses_bpf_or_unsafe() {
    for package in &metadata().packages {
        if package.name.as_str() == "blackstart-kernel" {
            continue;
        }
        for used in &package.dependencies {
            assert!(
                !used.name.starts_with("libbpf"),
                "{} must not use {}",
                package.name,
                used.name
            );
        }
        // The compiler does the rest.
        for target in package
            .targets
            .iter()
            .filter(|target| target.is_lib() || target.is_bin())
        {
            let text = fs::read_to_string(&target.src_path).expect("read a crate's root");
            assert!(
                text.contains("#![forbid(unsafe_code)]"),
                "{} lacks #![forbid(unsafe_code)]: unsafe belongs in the kernel crate",
                target.src_path
            );
        }
    }
}

/// What the verifier looked at when the matrix was last played whole, on every kernel that can enforce (`make verifier-table`).
#[test]
fn no_program_is_near_the_verifier_s_limit_on_any_kernel() {
    const LIMIT: u64 = 250_000;
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    let kernels = text(&root().join("scripts/vm/kernels"));
    let wanted: BTreeSet<_> = kernels
        .lines()
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>())
        .filter(|fields| fields.get(4) == Some(&"enforces"))
        .map(|fields| fields[0].to_owned())
        .collect();
    let tables = fs::read_dir(root().join("benches/data")).unwrap().flatten();
    let newest = tables
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with("-verifier.txt"))
        .max()
        .unwrap();
    let table = text(&newest);
    let mut programs = BTreeMap::<String, usize>::new();
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let (kernel, looked_at) = (words.next().unwrap(), words.next().unwrap());
        assert!(
            (1..=LIMIT).contains(&looked_at.parse().unwrap()),
            "{}: {line}",
            newest.display()
        );
        *programs.entry(kernel.to_owned()).or_default() += 1;
    }
    assert!(
        programs.values().all(|count| *count >= 18) && programs.into_keys().eq(wanted),
        "{}",
        newest.display()
    );
}

/// The table is made from what the tests say while they run (`blackstart-coverage`); that they still can is seen without a run.
#[test]
fn each_case_is_there_once_and_its_tests_exist() {
    let numbers: BTreeSet<_> = CASES.iter().map(|case| case.number).collect();
    assert!(numbers.iter().copied().eq(1..=70), "{numbers:?}");
    for case in &CASES {
        for (file, test) in case.besides {
            assert!(
                function(file, test).is_some(),
                "{file} has no test {test}, of case {}",
                case.number
            );
        }
    }
    let document = fs::read_to_string(root().join("docs/coverage.md")).unwrap();
    let table = parse(&document).unwrap();
    assert_eq!(lacks(&table), Vec::<String>::new());
    assert_eq!(
        document,
        coverage::document(&table),
        "docs/coverage.md is made by `make coverage`, and by nobody else"
    );
    for ((case, how), row) in &table {
        for test in &row.tests {
            let (file, name) = test.rsplit_once("::").unwrap();
            // A module of a test's file may have a name of its own.
            let file = format!("tests/{file}.rs");
            let text = function(&file, name);
            let text = text.unwrap_or_else(|| panic!("{file} has no {name}, of case {case}"));
            let text: String = text.split_whitespace().collect();
            let declares = |end| text.contains(&format!("case!({case}{end}"));
            assert!(
                declares(',') || declares(')'),
                "{file}, {name}: it says nothing of case {case} {how}"
            );
        }
    }
}

/// The text of a function in a file of the workspace, from its name on to the next that begins as it does.
fn function(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(root().join(file)).ok()?;
    // A property test has what it is about as arguments.
    let begins = format!("fn {name}(");
    let mut lines = text.lines();
    let first = lines.find(|line| {
        let line = line.trim_start();
        line.starts_with(&begins) || line.ends_with("{") && line.contains(&format!(" {begins}"))
    })?;
    let indent = first.len() - first.trim_start().len();
    let body = lines.take_while(|line| *line != format!("{:indent$}}}", ""));
    Some(body.collect::<Vec<_>>().join("\n"))
}

#[test]
fn every_dependency_has_its_reason_and_its_user() {
    let listed: BTreeSet<String> = fs::read_to_string(root().join("docs/dependencies.md"))
        .expect("read docs/dependencies.md")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    let ours: BTreeSet<String> = DIRECTION
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let used: BTreeSet<String> = metadata()
        .packages
        .iter()
        .flat_map(|package| {
            package
                .dependencies
                .iter()
                .map(|dependency| dependency.name.clone())
        })
        .filter(|name| !ours.contains(name))
        .collect();
    assert_eq!(
        listed, used,
        "left: listed in docs/dependencies.md, right: used by a crate"
    );
    let declared: BTreeSet<String> = declared_dependencies()
        .into_iter()
        .filter(|name| !ours.contains(name))
        .collect();
    assert_eq!(
        declared, used,
        "left: declared in Cargo.toml, right: used by a crate"
    );
}

#[test]
fn what_the_documents_name_exists() {
    let words = source_words();
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"] {
        let text = fs::read_to_string(root().join(document))
            .unwrap_or_else(|e| panic!("read {document}: {e}"));
        for (line, quoted) in quoted(&text) {
            let is_path = quoted.contains('/') && !quoted.contains(' ') && !quoted.starts_with('/');
            let known = if is_path {
                root().join(quoted.trim_end_matches('/')).exists() || quoted.starts_with("target/")
            } else {
                // Readers run what the other two quote; what the architecture names must be code.
                document != "ARCHITECTURE.md" || words_of(&quoted).all(|word| words.contains(word))
            };
            assert!(
                known,
                "{document}:{line}: `{quoted}` names nothing that is there"
            );
        }
        for (line, target) in links(&text) {
            assert!(
                root().join(&target).exists(),
                "{document}:{line}: the link to {target} leads nowhere"
            );
        }
    }
}

#[test]
fn nothing_is_committed_that_is_made_by_the_build() {
    let found = files(&root(), &|path| {
        path.extension().is_some_and(|extension| extension == "o")
    });
    assert!(
        found.is_empty(),
        "object files beside the sources: {found:?}"
    );
}

/// The keys of `[workspace.dependencies]`.
fn declared_dependencies() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("read Cargo.toml");
    manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name.to_owned()))
        .collect()
}

/// What stands in backticks outside of code blocks, with its line.
fn quoted(text: &str) -> Vec<(usize, String)> {
    prose(text)
        .flat_map(|(number, line)| {
            line.split('`')
                .skip(1)
                .step_by(2)
                .map(move |quoted| (number, quoted.to_owned()))
        })
        .filter(|(_, quoted)| !quoted.is_empty())
        .collect()
}

/// Targets of links into this repository, with their line.
fn links(text: &str) -> Vec<(usize, String)> {
    prose(text)
        .flat_map(|(number, line)| {
            line.split("](").skip(1).map(move |rest| {
                (
                    number,
                    rest.split(')').next().unwrap_or_default().to_owned(),
                )
            })
        })
        .filter(|(_, target)| !target.contains("://") && !target.starts_with('#'))
        .map(|(number, target)| {
            (
                number,
                target.split('#').next().unwrap_or_default().to_owned(),
            )
        })
        .collect()
}

fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    text.lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line))
        .filter(move |(_, line)| {
            if line.starts_with("```") {
                in_block = !in_block;
                return false;
            }
            !in_block
        })
}

/// The parts of a name or an expression.
fn words_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
}

/// Every word of the sources, the manifests and the build files: what a document names must be one.
fn source_words() -> BTreeSet<String> {
    let is_source = |path: &Path| {
        path.extension().is_some_and(|extension| {
            ["rs", "c", "h", "toml", "yaml", "sh"]
                .iter()
                .any(|known| extension == *known)
        }) || path
            .file_name()
            .is_some_and(|name| name == "Makefile" || name == "install-deps")
    };
    let mut words: BTreeSet<String> = BTreeSet::new();
    for file in files(&root(), &is_source) {
        let text = fs::read_to_string(&file).expect("read a source file");
        words.extend(words_of(&text).map(str::to_owned));
        words.extend(file.file_name().into_iter().flat_map(|name| {
            name.to_string_lossy()
                .split('.')
                .map(str::to_owned)
                .collect::<Vec<_>>()
        }));
    }
    words
}

/// The files below `dir` that are ours: no build results, nothing hidden.
fn files(dir: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)
        .expect("read a directory of the workspace")
        .flatten()
    {
        let (path, name) = (entry.path(), entry.file_name());
        if name.to_string_lossy().starts_with('.') || name == "target" {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&path, wanted));
        } else if wanted(&path) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Run `scripts/install-deps build` where there is no program but bash, the plain ones and those given: name and script.
/// What it said, and what apt-get and rustup were asked for.
fn install_deps(programs: &[(&str, &str)]) -> (bool, String, String) {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    for plain in [
        "bash", "cut", "dirname", "env", "head", "sed", "sort", "chmod",
    ] {
        let at = ["/usr/bin", "/bin"].map(|place| Path::new(place).join(plain));
        let at = at.iter().find(|at| at.exists()).expect("a plain program");
        symlink(at, bin.join(plain)).unwrap();
    }
    for (name, script) in programs {
        let text = format!("#!/bin/bash\necho \"${{0##*/}} $*\" >>\"$ASKED\"\n{script}\n");
        program::write(&bin.join(name), &text);
    }
    let asked = dir.path().join("asked");
    let ended = std::process::Command::new(bin.join("bash"))
        .arg(root().join("scripts/install-deps"))
        .arg("build")
        .env_clear()
        .env("PATH", &bin)
        .env("BIN", &bin)
        .env("ASKED", &asked)
        .env("HOME", dir.path())
        .output()
        .unwrap();
    (
        ended.status.success(),
        String::from_utf8_lossy(&ended.stderr).into_owned(),
        fs::read_to_string(&asked).unwrap_or_default(),
    )
}

#[test]
fn without_cargo_nothing_is_installed_or_a_toolchain_is() {
    let sudo = ("sudo", "exec \"$@\"");
    let dpkg = ("dpkg-query", "exit 1");
    let apt_get = ("apt-get", "");
    // No package of rustup either.
    let (fine, said, asked) = install_deps(&[apt_get, sudo, dpkg, ("apt-cache", "exit 1")]);
    assert!(!fine && said.contains("cargo is not there"), "{said}");
    assert!(said.contains("nothing was installed"), "{said}");
    assert!(!asked.contains(" install "), "{asked}");

    // With one, which brings a toolchain when it is asked for it.
    let rustup = "cat >\"$BIN/rustup\" <<'END'\n#!/bin/bash\necho \"rustup $*\" >>\"$ASKED\"\n\
        printf '#!/bin/bash\\necho rustc 999.0.0\\n' >\"$BIN/rustc\"\nchmod 755 \"$BIN/rustc\"\nEND\nchmod 755 \"$BIN/rustup\"";
    let installs = format!("[[ \" $* \" == *' install '* ]] || exit 0\n{rustup}");
    let cat = ("cat", "while IFS= read -r line; do echo \"$line\"; done");
    let (fine, said, asked) =
        install_deps(&[("apt-get", &installs), sudo, dpkg, cat, ("apt-cache", "")]);
    assert!(fine, "{said}");
    let installed = asked.lines().find(|line| line.contains(" install "));
    assert!(
        installed.is_some_and(|line| line.contains(" rustup ")),
        "{asked}"
    );
    assert!(asked.contains("rustup default stable"), "{asked}");

    // One that is too old is told of before anything else, too.
    let old = ("rustc", "echo rustc 1.0.0");
    let (fine, said, asked) = install_deps(&[apt_get, sudo, dpkg, ("cargo", ""), old]);
    assert!(!fine && said.contains("is too old"), "{said}");
    assert!(!asked.contains("apt-get"), "{asked}");
}
