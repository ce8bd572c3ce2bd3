//! What a transaction's rows are told as. Results that are told the same are told it together.

use std::sync::Arc;

use bytes::Bytes;
use realtime_changes::{Action, RowView};
use realtime_live::{Digest, Holders, Keeper, Secret, Seen, values};
use realtime_pgoutput::message::UnixMicros;
use rustc_hash::FxHashMap;

use super::{
    direct::Image,
    group::{millis, send},
    result::{Fates, Kept},
    view,
};
use crate::{ChangeSink, live::Source};

/// Rows that are told, by their places among the images, and as what.
pub(super) type Told = Vec<(u32, Action)>;

/// What results are told of the rows of a transaction.
pub(super) struct Tellings {
    images: Arc<[Image]>,
    at: UnixMicros,
    secret: Secret,
    /// Digests by view.
    digests: FxHashMap<(usize, u32), Digest>,
    /// DATA by view.
    data: FxHashMap<(usize, u32, Action), Bytes>,
    /// The results that are told the same, by view.
    same: FxHashMap<(usize, Told), Vec<u32>>,
}

/// Names a view while it is there.
fn name(view: &Arc<RowView>) -> usize {
    Arc::as_ptr(view).addr()
}

impl Tellings {
    pub(super) fn new(images: Arc<[Image]>, at: UnixMicros, secret: Secret) -> Self {
        let (digests, data, same) = (FxHashMap::default(), FxHashMap::default(), FxHashMap::default());
        Self { images, at, secret, digests, data, same }
    }

    /// The digest of what a view tells of a row.
    pub(super) fn digest(&mut self, view: &Arc<RowView>, image: u32) -> Option<Digest> {
        let row = self.images.get(image as usize)?.row.as_ref()?;
        let digest = self.digests.entry((name(view), image));
        Some(*digest.or_insert_with(|| view::digest(view, row, self.secret)))
    }

    pub(super) fn image(&self, image: u32) -> Option<&Image> {
        self.images.get(image as usize)
    }

    /// Puts rows into a keeper, or takes them out: what its clients are told, those that leave first.
    pub(super) fn put(
        &mut self,
        keeper: &mut Keeper,
        holders: &mut Holders,
        (result, view): (u32, &Arc<RowView>),
        fates: &Fates,
    ) -> Told {
        let (mut left, mut came) = (Told::new(), Told::new());
        keeper.tells_at(millis(self.at));
        let images = Arc::clone(&self.images);
        for (number, is_in) in fates {
            let Some(Image { key, hash, .. }) = images.get(*number as usize) else { continue };
            if !is_in {
                if keeper.remove(key) {
                    holders.remove(*hash, result);
                    left.push((*number, Action::Delete));
                }
                continue;
            }
            let Some(digest) = self.digest(view, *number) else { continue };
            match keeper.put(key, digest) {
                Seen::New => {
                    holders.add(*hash, result);
                    came.push((*number, Action::Insert));
                }
                Seen::Changed => came.push((*number, Action::Update)),
                Seen::Same | Seen::Twice => {}
            }
        }
        left.append(&mut came);
        left
    }

    /// A result is to be told.
    pub(super) fn add(&mut self, result: u32, view: &Arc<RowView>, told: Told) {
        self.same.entry((name(view), told)).or_default().push(result);
    }

    /// Tells it to all.
    pub(super) fn send(mut self, sink: &dyn ChangeSink, results: &FxHashMap<u32, Kept>) {
        for ((_, told), those) in std::mem::take(&mut self.same) {
            let mut all = those.iter().filter_map(|result| results.get(result));
            let Some(first) = all.next() else { continue };
            let rows: Vec<(Action, Bytes)> =
                told.iter().filter_map(|row| self.row(&first.view, &first.source, *row)).collect();
            match those.len() {
                1 => send(sink, &first.members, &rows, false),
                _ => {
                    let members = [first].into_iter().chain(all).flat_map(|kept| &kept.members);
                    send(sink, &members.map(Arc::clone).collect::<Vec<_>>(), &rows, false);
                }
            }
        }
    }

    fn row(
        &mut self,
        view: &Arc<RowView>,
        source: &Source,
        (image, action): (u32, Action),
    ) -> Option<(Action, Bytes)> {
        let Image { key, row, .. } = self.images.get(image as usize)?;
        let data = self.data.entry((name(view), image, action)).or_insert_with(|| match (action, row) {
            (Action::Insert | Action::Update, Some(row)) => view.data(action, row, self.at, &source.types),
            _ => view.left(&values(key), self.at, &source.types),
        });
        Some((action, data.clone()))
    }
}
