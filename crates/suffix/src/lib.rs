//! The public suffix list, compiled once.
//!
//! The list is eleven thousand functions, which are all inlined into whoever calls them. In a crate of its own that is
//! done once; in `blackstart-core` it made up most of each build.
#![forbid(unsafe_code)]

/// Who made a suffix one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A registry: `com`, `co.uk`.
    Icann,
    /// An owner, who gives out names below: `s3.amazonaws.com`.
    Private,
}

/// Is this name a public suffix, and whose? `name` is in lower case, without the trailing dot.
#[inline(never)]
pub fn kind(name: &[u8]) -> Option<Kind> {
    let suffix = psl::suffix(name).filter(|suffix| suffix.as_bytes() == name)?;
    suffix.typ().map(|typ| match typ {
        psl::Type::Icann => Kind::Icann,
        psl::Type::Private => Kind::Private,
    })
}
