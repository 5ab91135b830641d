//! What a process is called, wherever a person reads of it.

/// A process image in one word: the script, for an interpreter that runs one, else the file's name.
///
/// The live lines, the summary and the findings all call it so. The kernel records what exec was given
/// (`./deploy.sh`), /proc what ran (`/usr/bin/bash`): both lead to the same word.
pub fn image_name<'a>(exe: &'a str, argv: &'a [String]) -> &'a str {
    let exe = match (exe, argv.first()) {
        (exe, Some(first)) if exe.is_empty() || is_link(exe) => first,
        (exe, _) => exe,
    };
    match script(base(exe), argv).map_or(base(exe), base) {
        "" => "?",
        name => name,
    }
}

/// The script that a process image runs, as its path was given; none for a program of its own.
pub fn image_script<'a>(exe: &'a str, argv: &'a [String]) -> Option<&'a str> {
    let first = argv.first()?;
    // `#!`: the kernel puts the interpreter, and at most one argument for it, before the path that exec was
    // given. Whatever the interpreter is, the file is text.
    if first != exe && exe.contains('/') && argv.iter().skip(1).take(2).any(|word| word == exe) {
        return Some(exe);
    }
    let interpreter = if exe.is_empty() || is_link(exe) {
        first
    } else {
        exe
    };
    script(base(interpreter), argv)
}

/// Without `.` and `..`, as far as that can be told without looking.
pub(crate) fn absolute(path: &str, directory: Option<&str>) -> String {
    let whole = match directory {
        Some(directory) if !path.starts_with('/') => format!("{directory}/{path}"),
        _ => path.to_owned(),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if whole.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    let root = if whole.starts_with('/') { "/" } else { "" };
    format!("{root}{}", parts.join("/"))
}

/// A path by which a program executes itself again, or a file that has no name (container runtimes do both):
/// `/proc/self/exe`, `/dev/fd/6`. Its last part is no program's name.
fn is_link(exe: &str) -> bool {
    let mut parts = exe.split('/').skip(1);
    match (parts.next(), parts.next()) {
        (Some("dev"), Some("fd")) => true,
        (Some("proc"), Some(_)) => matches!(parts.next(), Some("exe" | "fd")),
        _ => false,
    }
}

/// The script that an interpreter was told to run.
fn script<'a>(interpreter: &str, argv: &'a [String]) -> Option<&'a str> {
    // Options that neither take a value nor bring the program along with them. What is not listed ends the
    // search: its value would be taken for a script.
    let bare = match interpreter.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.') {
        "sh" | "bash" | "dash" | "zsh" | "ksh" => "aefhiklmnprtuvxBCEHPT",
        "python" => "bBdEhiIOPqsSuvVx",
        "perl" => "anpstTuUwWX",
        "ruby" => "nplsSwW",
        "node" | "nodejs" => "",
        _ => return None,
    };
    let is_bare = |word: &str| {
        word.strip_prefix('-').is_some_and(|letters| {
            !letters.is_empty() && letters.chars().all(|letter| bare.contains(letter))
        })
    };
    argv.iter()
        .skip(1)
        .map(String::as_str)
        .find(|word| !is_bare(word))
        .filter(|word| !word.is_empty() && !word.starts_with('-'))
}

fn base(path: &str) -> &str {
    path.rsplit('/')
        .find(|part| !part.is_empty())
        .unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_called_by_its_own_name() {
        for (exe, argv, name) in [
            (
                "/bin/sh",
                &["/bin/sh", "/srv/deploy.sh", "-x"][..],
                "deploy.sh",
            ),
            (
                "/usr/bin/bash",
                &["bash", "-eu", "./deploy.sh"],
                "deploy.sh",
            ),
            ("python3.11", &["python3.11", "migrate.py"], "migrate.py"),
            (
                "/usr/bin/python3.11",
                &["python3", "-Iu", "/opt/tool"],
                "tool",
            ),
            // What exec was given, and what ran.
            ("./tools/check", &["python3", "./tools/check", "x"], "check"),
            (
                "/usr/bin/python3.11",
                &["python3", "./tools/check", "x"],
                "check",
            ),
            // No script, or no telling which word is one.
            ("/bin/sh", &["sh", "-c", "curl x"], "sh"),
            ("/bin/bash", &["bash", "-ec", "curl x"], "bash"),
            ("/bin/bash", &["bash", "-o", "pipefail", "x.sh"], "bash"),
            ("/usr/bin/python3", &["python3", "-m", "pip"], "python3"),
            ("/usr/bin/perl", &["perl", "-e", "1"], "perl"),
            ("/bin/bash", &["-bash"], "bash"),
            ("/bin/sh", &["sh", ""], "sh"),
            ("/usr/bin/curl", &["curl", "https://x/deploy.sh"], "curl"),
            ("", &["/usr/bin/apt-get", "update"], "apt-get"),
            ("/dev/fd/6", &["/usr/bin/runc", "init"], "runc"),
            ("/proc/self/exe", &["wget", "x"], "wget"),
            ("/proc/7/fd/3", &["tool"], "tool"),
            ("/proc/self/exe", &[], "exe"),
            ("/opt/proc/exe", &["x"], "exe"),
            ("/usr/bin/", &[], "bin"),
            ("/", &[], "/"),
            ("", &[], "?"),
        ] {
            let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(image_name(exe, &argv), name, "{exe} {argv:?}");
        }
    }
}
