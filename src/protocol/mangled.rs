//! A strategy for properties: bytes that are nearly right.
//!
//! Bytes at random are refused by the first check of a reader. These are samples with a few edits,
//! which reach what lies behind it. `PROPTEST_CASES=1000000` runs for longer.

use proptest::prelude::*;
use proptest::sample::Index;

/// Pieces that readers of JSON, TOML, topics and tokens may trip over.
const PIECES: &[&[u8]] = &[
    b"",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\0",
    b"\xff\xfe",
    b"\xf0\x9f\x99\x82",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"/",
    b"//",
    b".",
    b"+",
    b"#",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"\n",
    b"=",
    b"eyJhbGciOiJub25lIn0",
    b"__proto__",
    b"members",
    b"group-",
];

/// An edit of a text at a place.
#[derive(Clone, Debug)]
enum Edit {
    Insert(Index, &'static [u8]),
    /// A byte in place of another.
    Replace(Index, u8),
    Delete(Index, Index),
    /// A part of the text a second time, behind itself.
    Repeat(Index, Index),
    /// A piece so often that nesting, lengths and counters come to their bounds.
    Flood(Index, &'static [u8], u16),
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = any::<Index>;
    let piece = || prop::sample::select(PIECES);
    prop_oneof![
        4 => (place(), piece()).prop_map(|(at, piece)| Edit::Insert(at, piece)),
        4 => (place(), any::<u8>()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
        3 => (place(), place()).prop_map(|(from, to)| Edit::Delete(from, to)),
        2 => (place(), place()).prop_map(|(from, to)| Edit::Repeat(from, to)),
        1 => (place(), piece(), 1..3000_u16)
            .prop_map(|(at, piece, times)| Edit::Flood(at, piece, times)),
    ]
}

fn range(from: Index, to: Index, len: usize) -> std::ops::Range<usize> {
    let (from, to) = (from.index(len + 1), to.index(len + 1));
    from.min(to)..from.max(to)
}

fn apply(bytes: &mut Vec<u8>, edit: Edit) {
    let len = bytes.len();
    match edit {
        Edit::Insert(at, piece) => {
            let at = at.index(len + 1);
            bytes.splice(at..at, piece.iter().copied());
        }
        Edit::Replace(at, byte) if len > 0 => bytes[at.index(len)] = byte,
        Edit::Replace(..) => {}
        Edit::Delete(from, to) => drop(bytes.drain(range(from, to, len))),
        Edit::Repeat(from, to) => {
            let range = range(from, to, len);
            let part = bytes[range.clone()].to_vec();
            bytes.splice(range.end..range.end, part);
        }
        Edit::Flood(at, piece, times) => {
            let at = at.index(len + 1);
            bytes.splice(at..at, piece.repeat(times.into()));
        }
    }
}

/// One of `samples` with up to six edits.
pub(crate) fn mangled(samples: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec(edit(), 0..=6);
    (prop::sample::select(samples), edits).prop_map(|(sample, edits)| {
        let mut bytes = sample.as_bytes().to_vec();
        edits.into_iter().for_each(|edit| apply(&mut bytes, edit));
        bytes
    })
}

/// The same as text: what is not UTF-8 is replaced.
pub(crate) fn mangled_text(samples: &'static [&'static str]) -> impl Strategy<Value = String> {
    mangled(samples).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
