//! The delivery log: what it holds after a restart.

use bytes::Bytes;

use super::{Feed, Maker};
use crate::protocol::envelope::Body;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::protocol::status::Status;
use crate::protocol::topic::TopicName;
use crate::rules::plan::Purpose;
use crate::store::{LoggedMessage, LoggedPublishes};

fn publish(topic: &str, payload: &'static [u8]) -> Publish {
    Publish::new(
        TopicName::parse(topic).unwrap(),
        Bytes::from_static(payload),
    )
}

impl Feed {
    /// Logs publishes, in a transaction of its own.
    fn log(&mut self, id: MessageId, first: usize, purpose: Purpose, publishes: &[Publish]) {
        self.store.begin().unwrap();
        self.store
            .log(&LoggedPublishes {
                id,
                came_on: b"came/\xff",
                first,
                purpose,
                publishes,
            })
            .unwrap();
        self.store.commit().unwrap();
    }

    fn publish_up_to(&mut self, id: MessageId) {
        self.store.begin().unwrap();
        self.store.published(id).unwrap();
        self.store.commit().unwrap();
    }
}

fn logged(id: MessageId, publishes: Vec<(Purpose, Publish)>) -> LoggedMessage {
    LoggedMessage {
        id,
        came_on: Bytes::from_static(b"came/\xff"),
        publishes,
    }
}

pub(crate) fn what_is_logged_is_given_back_after_a_restart_until_it_is_published<M: Maker>(
    maker: &M,
) {
    let mut feed = Feed::new(maker.lasting());
    let message = feed.message("x", "y", r#"{"text":"hi"}"#);
    let body = Body::from_stored(r#"{"text":"hi"}"#.to_owned());
    let topic = TopicName::parse("to/y").unwrap();
    let copies = [
        Publish::copy(topic.clone(), &body, Status::Delivered),
        publish("to/z", b"\xff\0"),
    ];
    let notice = Publish {
        user_properties: vec![("reason".to_owned(), "banned".to_owned())],
        ..publish("to/x", b"{}")
    };
    feed.log(message, 0, Purpose::Copy, &copies);
    feed.log(message, 2, Purpose::Notice, std::slice::from_ref(&notice));
    let second = feed.message("x", "y", "{}");
    let bulk = [publish("a", b"1"), publish("b", b"2")];
    feed.log(second, 0, Purpose::BulkCopy, &bulk);
    // It came again, and was planned again: the same numbers hold the same.
    feed.log(second, 0, Purpose::BulkCopy, &bulk);
    drop(feed);
    let mut feed = Feed::new(maker.lasting());
    let [to_y, to_z] = copies;
    let [a, b] = bulk;
    let of_second = logged(second, vec![(Purpose::BulkCopy, a), (Purpose::BulkCopy, b)]);
    let of_first = vec![
        (Purpose::Copy, to_y),
        (Purpose::Copy, to_z),
        (Purpose::Notice, notice),
    ];
    assert_eq!(
        feed.store.unpublished().unwrap(),
        [logged(message, of_first), of_second.clone()]
    );
    feed.publish_up_to(second.just_before());
    assert_eq!(feed.store.unpublished().unwrap(), [of_second]);
    feed.publish_up_to(second);
    drop(feed);
    assert_eq!(maker.lasting().unpublished().unwrap(), []);
}

pub(crate) fn what_the_log_forgot_in_vain_it_forgets_again<M: Maker>(maker: &M) {
    let mut feed = Feed::new(maker.empty());
    let id = feed.message("x", "y", "{}");
    feed.log(id, 0, Purpose::Copy, &[publish("a", b"1")]);
    feed.store.begin().unwrap();
    feed.store.published(id).unwrap();
    feed.store.rollback();
    assert_eq!(feed.store.unpublished().unwrap().len(), 1);
    feed.publish_up_to(id);
    assert_eq!(feed.store.unpublished().unwrap(), []);
}
