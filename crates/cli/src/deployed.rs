//! What a command deploys, as far as its line tells: a policy that lies there is changed by whoever changes the
//! deployment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use blackstart_core::report::image_script;

use crate::layers::real;

/// They run the rest of their line.
const WRAPPERS: [&str; 12] = [
    "sudo", "doas", "env", "nice", "ionice", "nohup", "setsid", "stdbuf", "time", "timeout",
    "chrt", "unshare",
];

/// The directory of the command, or of the script that it runs, and the git work trees around that and around the
/// directory in which it is started.
pub(crate) fn trees(command: &[OsString], directory: &Path) -> Vec<PathBuf> {
    let mut trees: Vec<PathBuf> = Vec::new();
    let mut add = |tree: &Path| {
        // All of the host is no deployment.
        if tree.parent().is_some() && !trees.iter().any(|known| known == tree) {
            trees.push(tree.to_owned());
        }
    };
    let work_tree = |of: &Path| {
        of.ancestors()
            .find(|at| at.join(".git").exists())
            .map(Path::to_owned)
    };
    for file in files(command, directory) {
        if let Some(of_file) = real(&file).parent() {
            add(of_file);
            work_tree(of_file).iter().for_each(|tree| add(tree));
        }
    }
    work_tree(&real(directory))
        .iter()
        .for_each(|tree| add(tree));
    trees
}

/// The command by its path, and the script.
fn files(command: &[OsString], directory: &Path) -> Vec<PathBuf> {
    let words: Vec<String> = command
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let mut files = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let path = directory.join(word);
        let wraps = path
            .file_name()
            .is_some_and(|name| WRAPPERS.iter().any(|wrapper| name == *wrapper));
        // Of what a wrapper is told some is not the command: an option and its value, a variable.
        let named = word.contains('/') && (at == 0 || path.is_file());
        let script = image_script("", &words[at..]);
        files.extend(named.then_some(path));
        files.extend(script.map(|script| directory.join(script)));
        if script.is_some() || (named || at == 0) && !wraps {
            break;
        }
    }
    files
}

/// Which of a policy's files, named as from `directory`, lie in one of the trees.
pub(crate) fn remarks(files: &[String], directory: &Path, trees: &[PathBuf]) -> Vec<String> {
    let remark = |file: &String| {
        let at = real(&directory.join(file));
        let tree = trees.iter().find(|tree| at.starts_with(tree))?;
        Some(format!(
            "the policy {file} lies in the tree that is deployed ({}): whoever changes the deployment can change what judges it; keep it elsewhere, or put what must hold into a guardrail of the host",
            tree.display()
        ))
    };
    files.iter().filter_map(remark).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_deployed_is_known_by_the_command_its_script_and_where_it_starts() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir_all(dir.join("repo/.git")).unwrap();
        fs::create_dir_all(dir.join("repo/ci")).unwrap();
        fs::create_dir_all(dir.join("repo/bin")).unwrap();
        fs::create_dir_all(dir.join("release/bin")).unwrap();
        for file in [
            "repo/ci/p.yaml",
            "repo/deploy.sh",
            "repo/bin/tool",
            "release/bin/deploy.sh",
            "release/bin/p.yaml",
            "p.yaml",
        ] {
            fs::write(dir.join(file), "").unwrap();
        }
        let said = |policy: &str, command: &str, directory: &str| {
            let command: Vec<OsString> = command.split(' ').map(OsString::from).collect();
            let directory = dir.join(directory);
            let policy = dir.join(policy).display().to_string();
            !remarks(&[policy], &directory, &trees(&command, &directory)).is_empty()
        };
        assert!(said("repo/ci/p.yaml", "./deploy.sh", "repo"));
        assert!(said("repo/ci/p.yaml", "make", "repo/ci"));
        assert!(said("release/bin/p.yaml", "release/bin/deploy.sh", ""));
        // By its interpreter, and by who starts that.
        assert!(said("release/bin/p.yaml", "bash release/bin/deploy.sh", ""));
        assert!(said(
            "release/bin/p.yaml",
            "/bin/sh -eu release/bin/deploy.sh now",
            ""
        ));
        let sudo = "sudo -u deploy env A=b bash -x release/bin/deploy.sh";
        assert!(said("release/bin/p.yaml", sudo, ""));
        assert!(said(
            "release/bin/p.yaml",
            "/usr/bin/timeout 30m release/bin/deploy.sh",
            ""
        ));
        // Elsewhere in the work tree of the command, wherever it starts.
        assert!(said("repo/ci/p.yaml", "repo/bin/tool", ""));
        assert!(said("repo/ci/p.yaml", "python3 repo/bin/tool", ""));

        assert!(!said("release/bin/p.yaml", "true", "release"));
        assert!(!said("p.yaml", "./deploy.sh", "repo"));
        assert!(!said("p.yaml", "release/bin/deploy.sh", "repo"));
        assert!(!said("repo/ci/p.yaml", "/bin/true", ""));
        // What a command is told to work on is no command.
        assert!(!said("release/bin/p.yaml", "cat release/bin/deploy.sh", ""));
        assert!(!said(
            "release/bin/p.yaml",
            "bash -c release/bin/deploy.sh",
            ""
        ));
    }
}
