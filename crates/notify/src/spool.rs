//! What waits to be sent: one file for each message, named by when it is due and when it was made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use blackstart_core::history::Micros;
use blackstart_core::notify::{Form, Sink};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::now;
use crate::place::{Place, replace};

/// Whoever was not reached in a week has learned of it in another way.
const OLDEST: Micros = 7 * 86_400_000_000;
/// The earliest go first where there are more, or larger ones.
const MOST: usize = 1000;
const LARGEST: u64 = 16 << 20;
/// No message takes so long to be written.
const HALF_MOST: Duration = Duration::from_secs(3600);

static MADE: AtomicU32 = AtomicU32::new(0);

/// A message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) form: Form,
    pub(crate) to: Sink,
    pub(crate) body: Value,
    /// How often it was tried.
    #[serde(default)]
    pub(crate) tried: u32,
    /// What came of it the last time; never with the URL.
    #[serde(default)]
    pub(crate) why: String,
}

/// A message's file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// When it is to be tried.
    pub(crate) next: Micros,
    /// When it was made.
    pub(crate) made: Micros,
    tag: String,
    pub(crate) size: u64,
}

impl Entry {
    fn name(&self) -> String {
        format!("{:020}-{:020}-{}.json", self.next, self.made, self.tag)
    }

    fn read(name: &str, size: u64) -> Option<Self> {
        let mut parts = name.strip_suffix(".json")?.splitn(3, '-');
        Some(Self {
            next: parts.next()?.parse().ok()?,
            made: parts.next()?.parse().ok()?,
            tag: parts.next()?.to_owned(),
            size,
        })
    }

    pub(crate) fn path(&self, spool: &Path) -> PathBuf {
        spool.join(self.name())
    }

    /// The message; none if somebody has sent it, or nobody can read it.
    pub(crate) fn message(&self, spool: &Path) -> Option<Message> {
        serde_json::from_slice(&fs::read(self.path(spool)).ok()?).ok()
    }

    /// It is sent.
    pub(crate) fn remove(&self, spool: &Path) {
        if let Err(error) = fs::remove_file(self.path(spool)) {
            tracing::debug!(%error, "a sent message");
        }
    }

    /// It is to be tried again then. On a full disk it stays as it is, and is due at once.
    pub(crate) fn put_off(&self, spool: &Path, message: Option<&Message>, next: Micros) {
        if let Some(message) = message
            && let Ok(text) = serde_json::to_vec(message)
            && let Err(error) = replace(&self.path(spool), 0o600, &text)
        {
            tracing::debug!(%error, "a message that waits");
        }
        let later = Self {
            next,
            ..self.clone()
        };
        if let Err(error) = fs::rename(self.path(spool), later.path(spool)) {
            tracing::debug!(%error, "a message that waits");
        }
    }
}

/// Put a message there, to be sent at once.
pub(crate) fn put(place: &Place, message: &Message) -> io::Result<()> {
    let now = now();
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let entry = Entry {
        next: now,
        made: now,
        tag: format!("{}-{number}", std::process::id()),
        size: 0,
    };
    let text = serde_json::to_vec(message)?;
    replace(&entry.path(&place.spool()), 0o600, &text)
}

/// What is there, the next one first.
pub(crate) fn entries(place: &Place) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for file in fs::read_dir(place.spool())?.flatten() {
        let size = file.metadata().map_or(0, |it| it.len());
        if let Some(entry) = file
            .file_name()
            .to_str()
            .and_then(|name| Entry::read(name, size))
        {
            found.push(entry);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// What is to go, of what is there.
fn surplus(mut entries: Vec<Entry>, now: Micros) -> Vec<Entry> {
    entries.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.made));
    let (mut count, mut size) = (0, 0);
    entries.retain(|entry| {
        count += 1;
        size += entry.size;
        let stays = count <= MOST && size <= LARGEST && now.saturating_sub(entry.made) < OLDEST;
        !stays
    });
    entries
}

/// Remove what is too old or too much, and say how many messages that were.
pub(crate) fn tidy(place: &Place) -> u64 {
    let surplus = surplus(entries(place).unwrap_or_default(), now());
    for entry in &surplus {
        entry.remove(&place.spool());
    }
    for dir in [place.spool(), place.local()] {
        for half in halves(&dir) {
            let _gone = fs::remove_file(half);
        }
    }
    surplus.len() as u64
}

/// What was being written when its writer was killed, an hour ago or longer: nobody else would take the URL in it away.
fn halves(spool: &Path) -> Vec<PathBuf> {
    let old = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let age = fs::symlink_metadata(path)
            .and_then(|it| it.modified())
            .map(|it| it.elapsed().unwrap_or_default());
        name.starts_with('.') && name.ends_with(".part") && age.is_ok_and(|it| it > HALF_MOST)
    };
    let all = fs::read_dir(spool).into_iter().flatten().flatten();
    all.map(|entry| entry.path()).filter(old).collect()
}

/// Is there something in the spool below `state` that is to be sent now?
pub fn due(state: &Path) -> bool {
    let Some(place) = Place::existing(state) else {
        return false;
    };
    let now = now();
    entries(&place).is_ok_and(|entries| entries.iter().any(|entry| entry.next <= now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(made: Micros, size: u64) -> Entry {
        Entry {
            next: made,
            made,
            tag: format!("1-{made}"),
            size,
        }
    }

    #[test]
    fn names_say_when() {
        let it = entry(7, 3);
        assert_eq!(Entry::read(&it.name(), 3), Some(it));
        for foreign in ["x.json", ".1-2-3.json.9.part", "1-2.json", ""] {
            assert_eq!(Entry::read(foreign, 0), None, "{foreign}");
        }
    }

    #[test]
    fn what_is_old_or_too_much_goes() {
        let now = OLDEST + 100;
        assert!(surplus(vec![entry(200, 1), entry(101, 1)], now).is_empty());
        assert_eq!(
            surplus(vec![entry(100, 1), entry(101, 1)], now),
            [entry(100, 1)]
        );
        let many: Vec<Entry> = (0..=MOST as Micros).map(|at| entry(now + at, 1)).collect();
        assert_eq!(surplus(many, now), [entry(now, 1)]);
        let large = vec![entry(now, 1), entry(now + 1, LARGEST)];
        assert_eq!(surplus(large, now), [entry(now, 1)]);
    }
}
