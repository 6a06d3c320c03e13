//! Changed targets, up to what is published.

use super::*;
use crate::model::{Changes, Known};

fn to(alias: &str) -> Changes {
    let mut changes = Changes::default();
    changes.add(name(TARGET), Known::Alias(name(alias)));
    changes
}

fn found_at(alias: &str) -> Outcome {
    Outcome::Answer(addresses(&[TARGET, alias], 1, 20))
}

#[tokio::test]
async fn what_was_decided_before_a_change_is_not_published_after_it() {
    let lab = Lab::new(ResponderOptions::default());
    let published = Arc::new(Published::default());
    from_program(&lab, &published, RecordType::A, false);
    lab.resolve(found_at("old.example.")).await;
    let before = published.take();
    assert_eq!(before.len(), 1);

    // An action that its thread performs only now.
    let entry = CacheEntry::new(
        Section::new(&addresses(&[TARGET, "old.example."], 1, 20)).unwrap(),
        20,
        0,
        clock(),
    );
    let client = Arc::new(Client {
        is_known: false,
        reply_path: ReplyPath::Frame(frame(3, b"")),
        watched: None,
        answers: Some(published.clone()),
    });
    let late = |epoch| {
        let publish = Action::Publish {
            client: client.clone(),
            ifindex: 3,
            key: kernel_key(RecordType::A),
            entry: Arc::new(CacheEntry::new(entry.section.clone(), 20, 0, clock())),
            term: Term::default(),
        };
        lab.responder.perform(publish, epoch);
        let absent = Action::PublishNoTarget {
            client: client.clone(),
            ifindex: 3,
            key: kernel_key(RecordType::A),
            left: Duration::from_secs(1),
        };
        lab.responder.perform(absent, epoch);
    };
    lab.responder.changed(&to("new.example."), &*published);
    assert_eq!(published.take(), [Publication::Changed(1)]);
    late(0);
    assert_eq!(published.take(), []);
    late(1);
    assert_eq!(published.take().len(), 2);
}

#[tokio::test]
async fn published_answers_are_judged_by_their_chain() {
    let lab = Lab::new(ResponderOptions::default());
    let judge = |changes: &Changes, answer: &Answer| {
        let body = Section::new(answer).unwrap().body().unwrap();
        let answers = Judging {
            entry: Some((u16::from(answer.qtype), body)),
            is_outdated: Mutex::default(),
        };
        lab.responder.changed(changes, &answers);
        answers.is_outdated.into_inner().unwrap().unwrap()
    };
    let old = addresses(&[TARGET, "old.example.", "end.example."], 2, 20);
    let denied = Answer {
        qtype: RecordType::AAAA,
        rdata: vec![],
        soa: Some(Box::new((name("example."), soa_data(30)))),
        ..old.clone()
    };
    let alone = Answer {
        qtype: RecordType::CNAME,
        rdata: vec![],
        ..addresses(&[TARGET], 0, 20)
    };
    for answer in [&old, &denied] {
        assert!(judge(&to("new.example."), answer));
        assert!(!judge(&to("old.example."), answer));
    }
    assert!(!judge(&to("new.example."), &alone));
    let mut absent = Changes::default();
    absent.add(name(TARGET), Known::Absent);
    for answer in [&old, &denied, &alone] {
        assert!(judge(&absent, answer));
    }
    let no_target = |changes: &Changes| {
        let answers = Judging {
            entry: None,
            is_outdated: Mutex::default(),
        };
        lab.responder.changed(changes, &answers);
        answers.is_outdated.into_inner().unwrap().unwrap()
    };
    assert!(no_target(&to("new.example.")));
    assert!(!no_target(&absent));
}

/// A table with one entry, whose fate it notes.
#[derive(Debug)]
struct Judging {
    entry: Option<(u16, answer::Body)>,
    is_outdated: Mutex<Option<bool>>,
}

impl Publish for Judging {
    fn key(&self, _: u64, _: u16, _: IpAddr, _: &[String], _: u32) -> Option<answer::Key> {
        None
    }

    fn last_good(&self, _: &answer::Key) -> LastGood {
        LastGood::default()
    }

    fn answer(&self, _: u32, _: &answer::Key, _: &answer::Body, _: &Term) {}

    fn no_target(&self, _: u32, _: &answer::Key, _: Duration) {}

    fn withdraw(&self, _: &answer::Key) {}

    fn withdraw_changed(
        &self,
        _: &Changes,
        is_outdated: &dyn Fn(&[Name], &PublishedEntry<'_>) -> bool,
    ) {
        let entry = match &self.entry {
            Some((qtype, body)) => PublishedEntry::Answer(*qtype, body),
            None => PublishedEntry::NoTarget,
        };
        *self.is_outdated.lock().unwrap() = Some(is_outdated(&[name(TARGET)], &entry));
    }
}
