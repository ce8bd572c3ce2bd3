//! What is said, on its way to the members of a room and to its history.

use std::sync::Arc;

use bytes::Bytes;
use realtime_protocol::{UserBroadcast, Vsn, encode};

use super::{
    Histories, History,
    kept::{Content, Kept, id_text},
    place,
};
use crate::{
    bus::Said,
    key::{MessageId, RoomKey},
    message::Frames,
};

/// Something that is said, with what its history needs of it. Nothing but the text where no history is kept.
#[derive(Debug, Default)]
pub(crate) struct Words<'a> {
    said: Option<Said<'a>>,
    /// What keeps it, and its id there.
    kept: Option<(Arc<History>, MessageId)>,
    /// The id of a row of the database.
    row: Option<MessageId>,
    meta: Option<String>,
}

impl<'a> Words<'a> {
    /// Something that is said for a tenant. If it has an id already, that stays.
    pub(crate) fn of(histories: &Histories, tenant: &str, said: &Said<'a>, id: Option<MessageId>) -> Self {
        let is_object = match said {
            Said::Json(payload) => encode::open_object(payload).is_some(),
            Said::User(_) => true,
        };
        let history = histories.of(tenant).filter(|_| is_object);
        let kept = history.map(|history| (history, id.unwrap_or_else(|| histories.new_id())));
        let meta = kept.as_ref().map(|(_, id)| meta(*id));
        Self { said: Some(*said), kept, row: None, meta }
    }

    /// A row of the database. Its frames are made by others; `user` is what they carry, if it is to be kept.
    pub(crate) fn row(
        histories: &Histories,
        tenant: &str,
        id: MessageId,
        user: Option<&'a UserBroadcast>,
    ) -> Self {
        let history = user.and_then(|_| histories.of(tenant));
        let meta = history.as_ref().map(|_| meta(id));
        Self { said: user.map(Said::User), kept: history.map(|history| (history, id)), row: Some(id), meta }
    }

    /// Its id, for other nodes and for members that may get it twice.
    pub(crate) fn id(&self) -> Option<MessageId> {
        self.row.or(self.kept.as_ref().map(|(_, id)| *id))
    }

    /// Whether it is kept.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// The frame for a serializer, if that can carry it.
    pub(crate) fn encode(&self, vsn: Vsn, topic: &str) -> Option<Bytes> {
        let said = self.said.as_ref()?;
        match (&self.meta, said) {
            (None, said) => said.encode(vsn, topic),
            (Some(meta), Said::Json(payload)) => {
                let open = encode::open_object(payload)?;
                Some(encode::broadcast_with_meta(vsn, topic, open, meta.as_bytes()))
            }
            (Some(meta), Said::User(user)) => encode::user_broadcast(vsn, topic, user, Some(meta.as_bytes())),
        }
    }

    /// What is to be put on the shelf. It shares the memory of the frames.
    pub(crate) fn message(&self, frames: &Frames) -> Option<Arc<Kept>> {
        let (_, id) = self.kept.as_ref()?;
        let content = match self.said.as_ref()? {
            // A copy is made only if no frame carries it.
            Said::Json(payload) => return self.json(*id, encode::open_object(payload)?, frames),
            Said::User(user) => Content::User((*user).clone()),
        };
        let meta_len = self.meta.as_ref().map_or(0, String::len);
        Some(Arc::new(Kept::new(*id, content.shared(frames, meta_len), self.row.is_some())))
    }

    fn json(&self, id: MessageId, open: &[u8], frames: &Frames) -> Option<Arc<Kept>> {
        let meta_len = self.meta.as_ref().map_or(0, String::len);
        let part = frames.iter().flatten().find_map(|frame| encode::part_of(frame, open, meta_len));
        let open = part.unwrap_or_else(|| Bytes::copy_from_slice(open));
        Some(Arc::new(Kept::new(id, Content::Json(open), false)))
    }

    /// Puts it on the shelf. Called under the lock under which it is queued for the room's members. `if_known`: only if
    /// somebody was in the room a while ago.
    pub(crate) fn keep(
        &self,
        histories: &Histories,
        key: &RoomKey,
        message: Option<Arc<Kept>>,
        if_known: bool,
    ) {
        let (Some((history, _)), Some(message)) = (&self.kept, message) else { return };
        let number = histories.draw();
        history.with(|shelf, now| shelf.push(&place(key), message, number, if_known, now));
    }
}

/// The `meta` of a message that comes live.
fn meta(id: MessageId) -> String {
    format!("{{\"id\":\"{}\"}}", id_text(id))
}
