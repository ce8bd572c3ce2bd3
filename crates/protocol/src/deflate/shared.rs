//! What many frames have in common, compressed once.

use bytes::Bytes;
use flate2::FlushCompress;
use memchr::memmem;

use super::{TAIL, figures, pack::with_writer};
use crate::frame::{self, Builder};

/// How much of the part is looked for in a frame, in bytes, before all of it is compared.
const SOUGHT: usize = 16;

/// What a block without compression takes beside its content.
const STORED: usize = 5;

/// The part that many frames have in common, compressed: a row, around which each frame has its own topic and ids. A frame is
/// made of it without compressing anything again: its own parts stand beside it as they are.
pub struct Shared {
    /// Ends with [`TAIL`], so that what follows begins with a byte of its own.
    packed: Vec<u8>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("packed", &self.packed.len()).finish()
    }
}

impl Shared {
    /// Compresses the part. `None` if that does not make it smaller.
    #[must_use]
    pub fn new(plain: &[u8]) -> Option<Self> {
        let packed = with_writer(|writer| {
            writer.add(plain, FlushCompress::Sync)?;
            Some(writer.out.clone())
        });
        figures::count_packed(
            plain.len(),
            packed.as_ref().map_or(plain.len(), |out| out.len().min(plain.len())),
        );
        let packed = packed.filter(|packed| packed.len() < plain.len() && packed.ends_with(&TAIL))?;
        Some(Self { packed })
    }

    /// The compressed form of a finished text or binary frame that has the part in it, which is `plain` as it was. `None` if it
    /// has not, or if that is not smaller.
    #[must_use]
    pub fn frame(&self, plain: &[u8], frame: &Bytes) -> Option<Bytes> {
        let (first, payload) = frame::plain(frame)?;
        let at = find(plain, &payload)?;
        let (before, rest) = payload.split_at_checked(at)?;
        let after = rest.get(plain.len()..)?;
        let len = before.len() + self.packed.len() + after.len() + 2 * STORED + 1;
        if len >= payload.len() {
            return None;
        }
        let mut builder = Builder::new(len);
        let out = builder.out();
        stored(out, before)?;
        if after.is_empty() {
            out.extend_from_slice(self.packed.strip_suffix(&TAIL)?);
        } else {
            out.extend_from_slice(&self.packed);
            stored(out, after)?;
            // Begins an empty block, whose rest is not sent (RFC 7692 7.2.1).
            out.push(0);
        }
        Some(builder.packed(first))
    }
}

/// Where a part is in a payload.
fn find(part: &[u8], payload: &[u8]) -> Option<usize> {
    let sought = part.get(..SOUGHT).unwrap_or(part);
    memmem::find_iter(payload, sought)
        .find(|at| payload.get(*at..).is_some_and(|rest| rest.starts_with(part)))
}

/// A block without compression (RFC 1951 3.2.4). The output must end with a whole byte. `None` if it is too long for one.
fn stored(out: &mut Vec<u8>, content: &[u8]) -> Option<()> {
    if content.is_empty() {
        return Some(());
    }
    let len = u16::try_from(content.len()).ok()?;
    out.push(0);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&(!len).to_le_bytes());
    out.extend_from_slice(content);
    Some(())
}
