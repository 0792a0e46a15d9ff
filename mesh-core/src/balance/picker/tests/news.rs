//! What is told of priorities and panics.

use super::*;
use State::{Failing, Idle, Ready};

fn kit(states: &[State; 2]) -> Kit {
    Kit::new(LoadBalancer::RoundRobin, states).zoned(|index| ("a", [3, 7][index], 1))
}

#[test]
fn each_change_is_told_once() {
    let mut kit = kit(&[Ready, Ready]);
    let picker = kit.picker();
    let steps: [(&[State; 2], Option<News>); 6] = [
        (&[Ready, Ready], None),
        (&[Failing, Ready], news(Some(7), false)),
        (&[Failing, Idle], None),
        (&[Failing, Failing], news(None, false)),
        (&[Failing, Failing], None),
        (&[Ready, Failing], news(Some(3), false)),
    ];
    for (states, news) in steps {
        kit.set(states);
        let _ = kit.pick(&picker);
        assert_eq!(picker.take_news(), news, "{states:?}");
        let _ = kit.pick(&picker);
        assert_eq!(picker.take_news(), None, "{states:?}");
    }
}

/// There and back before anybody asked is nothing to tell.
#[test]
fn a_change_that_is_undone_is_not_told() {
    let mut kit = kit(&[Ready, Ready]);
    let picker = kit.picker();
    for state in [Failing, Ready] {
        kit.set_one(0, state);
        let _ = kit.pick(&picker);
    }
    assert_eq!(picker.take_news(), None);
}

#[test]
fn an_update_tells_only_what_differs() {
    let mut kit = kit(&[Failing, Ready]);
    let first = kit.picker();
    assert_eq!(first.take_news(), news(Some(7), false), "not the first priority from the beginning");
    let second = kit.picker().following(&first, kit.now);
    assert_eq!(second.take_news(), None);
    kit.set_one(0, Ready);
    let _ = kit.pick(&first);
    assert_eq!(first.take_news(), news(Some(3), false), "the old one is in use until the new one is published");
    let _ = kit.pick(&second);
    assert_eq!(second.take_news(), None);
    kit.config.localities.panic_threshold = 100;
    kit.eject(0);
    kit.eject(1);
    let third = kit.picker().following(&second, kit.now);
    assert_eq!(third.take_news(), news(Some(3), true));
    assert_eq!(kit.picker().take_news(), news(Some(3), true), "a panic from the beginning");
}
