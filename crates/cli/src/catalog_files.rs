//! The files of a catalog, read from where they lie.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use blackstart_core::catalog;

/// Where a host has its catalog.
const HOST: &str = "/etc/blackstart/catalog";

/// Where it is in a checkout.
const HERE: &str = "catalog";

/// Where a catalog is that nobody typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    /// `BLACKSTART_CATALOG`.
    pub(crate) variable: Option<OsString>,
    /// The host's own.
    pub(crate) host: PathBuf,
    /// Where the command will be started.
    pub(crate) directory: PathBuf,
}

impl Places {
    /// Those of this process.
    pub(crate) fn of_process() -> Self {
        Self {
            variable: std::env::var_os("BLACKSTART_CATALOG"),
            host: PathBuf::from(HOST),
            directory: std::env::current_dir().unwrap_or_default(),
        }
    }

    fn named(&self) -> Option<PathBuf> {
        let named = self.variable.as_deref().filter(|value| !value.is_empty());
        named.map(PathBuf::from)
    }

    /// That of a checkout. Whoever may write to a working directory may be anybody: what a policy refuses must not
    /// hang on it.
    pub(crate) fn here(&self) -> Option<PathBuf> {
        let is_there = self.directory.join(HERE).is_dir();
        is_there.then(|| PathBuf::from(HERE))
    }

    /// That of the host: what the variable names, or the host's own, if it is there.
    pub(crate) fn of_host(&self) -> Option<PathBuf> {
        let own = || self.host.exists().then(|| self.host.clone());
        self.named().or_else(own)
    }

    /// For looking at: what the variable names, or that of the checkout, or the host's.
    pub(crate) fn nearest(&self) -> Option<PathBuf> {
        let nearest = self.named().or_else(|| self.here());
        nearest.or_else(|| self.of_host())
    }
}

/// What was found below a path.
#[derive(Debug, Default)]
pub(crate) struct CatalogFiles {
    /// Name and text of each file, in the order of their paths.
    pub(crate) files: Vec<(String, String)>,
    /// What could not be read, in one line each: what, why, what to do. With one of these the catalog is
    /// partial, whatever the reading of the rest says.
    pub(crate) problems: Vec<String>,
}

/// Reads a file, or every `*.yaml` and `*.yml` in a directory and those below it. What begins with a dot is
/// left out, as by a shell. Nothing that cannot be read keeps the rest from being read.
pub(crate) fn read(path: &Path) -> CatalogFiles {
    let mut found = CatalogFiles::default();
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => found.directory(path, &mut BTreeSet::new()),
        Ok(_) => found.file(path),
        Err(error) => found.problem(path, &error),
    }
    found
}

impl CatalogFiles {
    fn problem(&mut self, path: &Path, why: &dyn std::fmt::Display) {
        self.problems
            .push(format!("cannot read the catalog {}: {why}", path.display()));
    }

    /// `entered` holds the real paths of all directories that were entered: a link that leads back to one
    /// would otherwise be followed for ever, or many times over.
    fn directory(&mut self, path: &Path, entered: &mut BTreeSet<PathBuf>) {
        let real = match fs::canonicalize(path) {
            Ok(real) => real,
            Err(error) => return self.problem(path, &error),
        };
        if entered.contains(&real) {
            let why = format!(
                "the link leads to {}, which is read already; remove the link",
                real.display()
            );
            return self.problem(path, &why);
        }
        entered.insert(real);
        let mut entries = Vec::new();
        match fs::read_dir(path) {
            Ok(listed) => {
                for entry in listed {
                    match entry {
                        Ok(entry) => entries.push(entry.path()),
                        Err(error) => self.problem(path, &error),
                    }
                }
            }
            Err(error) => return self.problem(path, &error),
        }
        entries.sort();
        for entry in entries {
            let hidden = entry
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if hidden {
                continue;
            }
            let is_yaml = entry
                .extension()
                .is_some_and(|ending| ending == "yaml" || ending == "yml");
            match fs::metadata(&entry) {
                Ok(metadata) if metadata.is_dir() => self.directory(&entry, entered),
                Ok(_) if is_yaml => self.file(&entry),
                Ok(_) => {}
                // A dangling link to something that is not ours to read is nobody's loss.
                Err(_) if !is_yaml => {}
                Err(error) => self.problem(&entry, &error),
            }
        }
    }

    fn file(&mut self, path: &Path) {
        match text(path) {
            Ok(text) => {
                let name = path.to_string_lossy().into_owned();
                self.files.push((name, text));
            }
            Err(why) => self.problem(path, &why),
        }
    }
}

/// The text of a file that is no longer than one of a catalog may be.
pub(crate) fn text(path: &Path) -> Result<String, String> {
    // Opening a pipe would wait for whoever writes to it.
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| {
            file.take(catalog::MAX_BYTES as u64 + 1)
                .read_to_end(&mut bytes)
        })
        .map_err(|error| error.to_string())?;
    if bytes.len() > catalog::MAX_BYTES {
        let most = catalog::MAX_BYTES >> 20;
        return Err(format!(
            "it is larger than {most} MiB; split it, there may be any number of files"
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let whole = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let before = String::from_utf8_lossy(whole);
        let of_line = before.rsplit('\n').next().unwrap_or_default();
        format!(
            "it is not UTF-8 from line {}, column {} on",
            before.matches('\n').count() + 1,
            of_line.chars().count() + 1
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The names of the files below `dir`, and what is said of the rest, with `dir` taken out.
    fn found(dir: &Path, read: &CatalogFiles) -> (Vec<String>, Vec<String>) {
        let prefix = format!("{}/", dir.display());
        let short = |text: &String| text.replace(&prefix, "");
        (
            read.files.iter().map(|(name, _)| short(name)).collect(),
            read.problems.iter().map(short).collect(),
        )
    }

    #[test]
    fn a_catalog_that_nobody_typed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut places = Places {
            variable: None,
            host: dir.join("etc"),
            directory: dir.join("work"),
        };
        let all = |places: &Places| (places.nearest(), places.of_host());
        assert_eq!(all(&places), (None, None));
        fs::create_dir(dir.join("etc")).unwrap();
        let etc = Some(dir.join("etc"));
        assert_eq!(all(&places), (etc.clone(), etc.clone()));
        // A file of that name is none.
        fs::create_dir_all(dir.join("work")).unwrap();
        fs::write(dir.join("work/catalog"), "").unwrap();
        assert_eq!(all(&places), (etc.clone(), etc.clone()));
        fs::remove_file(dir.join("work/catalog")).unwrap();
        fs::create_dir(dir.join("work/catalog")).unwrap();
        let here = Some(PathBuf::from("catalog"));
        assert_eq!(all(&places), (here.clone(), etc.clone()));
        places.variable = Some("".into());
        assert_eq!(all(&places), (here, etc));
        // What is named is meant, whether it is there or not.
        places.variable = Some("/named".into());
        let named = Some(PathBuf::from("/named"));
        assert_eq!(all(&places), (named.clone(), named));
    }

    #[test]
    fn every_yaml_below_in_the_order_of_paths() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir_all(dir.join("b/c")).unwrap();
        fs::create_dir_all(dir.join(".git")).unwrap();
        for name in [
            "z.yaml",
            "b/c/x.yml",
            "b/a.yaml",
            "a.json",
            ".git/h.yaml",
            ".h.yaml",
        ] {
            fs::write(dir.join(name), name).unwrap();
        }
        symlink("z.yaml", dir.join("again.yaml")).unwrap();
        symlink("nowhere", dir.join("README")).unwrap();
        let read = read(dir);
        let (files, problems) = found(dir, &read);
        assert_eq!(files, ["again.yaml", "b/a.yaml", "b/c/x.yml", "z.yaml"]);
        assert_eq!(problems, [""; 0]);
        assert_eq!(read.files[1].1, "b/a.yaml");
    }

    #[test]
    fn one_file_whatever_it_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.txt");
        fs::write(&path, "kind: Service\n").unwrap();
        let read = read(&path);
        assert_eq!((read.files.len(), read.problems.len()), (1, 0));
    }

    #[test]
    fn what_cannot_be_read_is_told_and_the_rest_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/good.yaml"), "").unwrap();
        fs::write(dir.join("latin1.yaml"), b"a: \xe4").unwrap();
        File::create(dir.join("huge.yaml"))
            .and_then(|file| file.set_len(catalog::MAX_BYTES as u64 + 1))
            .unwrap();
        symlink("..", dir.join("sub/loop")).unwrap();
        symlink("sub", dir.join("twice")).unwrap();
        symlink("self.yaml", dir.join("self.yaml")).unwrap();
        symlink("/dev/null", dir.join("null.yaml")).unwrap();
        symlink("nowhere", dir.join("dangling.yaml")).unwrap();
        let read = read(dir);
        let (files, problems) = found(dir, &read);
        assert_eq!(files, ["sub/good.yaml"]);
        let real = fs::canonicalize(dir).unwrap();
        let problems: Vec<_> = problems
            .iter()
            .map(|text| text.replace(&format!("{}", real.display()), "HERE"))
            .collect();
        let wanted = [
            "cannot read the catalog dangling.yaml: No such file or directory",
            "cannot read the catalog huge.yaml: it is larger than 16 MiB; split it, there may be any number of files",
            "cannot read the catalog latin1.yaml: it is not UTF-8 from line 1, column 4 on",
            "cannot read the catalog null.yaml: it is not a file",
            "cannot read the catalog self.yaml: Too many levels of symbolic links",
            "cannot read the catalog sub/loop: the link leads to HERE, which is read already; remove the link",
            "cannot read the catalog twice: the link leads to",
        ];
        assert_eq!(problems.len(), wanted.len(), "{problems:#?}");
        for (problem, wanted) in problems.iter().zip(wanted) {
            assert!(problem.starts_with(wanted), "{problem}");
        }
    }

    #[test]
    fn nothing_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let read = read(&dir.path().join("absent"));
        assert_eq!((read.files.len(), read.problems.len()), (0, 1));
        assert!(
            read.problems[0].contains("No such file"),
            "{:?}",
            read.problems
        );
    }
}
