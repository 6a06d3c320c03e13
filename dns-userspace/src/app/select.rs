//! Follows which namespaces have the labels that rules select them by, and says when the rules are to be loaded again for it.
//!
//! What is known is kept for the next process too, which goes on with it while the API server is away.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch as latest,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::kept::Kept;
use crate::{
    config,
    rules::selector::{Labelled, Labels},
    sources::{Selected, SelectedStatus},
};

/// Changes that come within this time are loaded together.
const GATHER: Duration = Duration::from_millis(100);
/// No two loads for such changes begin within less.
const SHORTEST: Duration = Duration::from_secs(1);
/// How often a start looks whether the API server has answered.
const LOOK: Duration = Duration::from_millis(10);
/// Until the API server answers.
const ASKED: &str = "the API server has not answered yet";
/// The name by which what is known is kept.
const KEPT: &str = "namespaces";

/// What is known, for `gregor status`.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Option<Shown>>>);

#[derive(Debug)]
struct Shown {
    selectors: Vec<Labels>,
    said: latest::Receiver<Selected>,
}

impl Board {
    pub fn status(&self) -> SelectedStatus {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = shown.as_ref();
        let now = std::time::Instant::now();
        shown.map_or_else(SelectedStatus::default, |shown| {
            shown.said.borrow().status(&shown.selectors, now)
        })
    }

    fn show(&self, shown: Option<Shown>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }
}

/// See the module.
pub struct Selecting {
    config: PathBuf,
    kept: Kept,
    /// `None` where no rule selects.
    task: Option<Task>,
    board: Board,
    /// Of the last load.
    loaded: Labelled,
    /// When the next load is due, where something has changed.
    due: Option<Instant>,
    last: Option<Instant>,
}

struct Task {
    selectors: Vec<Labels>,
    watches: bool,
    said: latest::Receiver<Selected>,
    /// For as long as nothing watches.
    _unused: Option<latest::Sender<Selected>>,
    _watch: JoinSet<()>,
}

impl Selecting {
    /// One that follows nothing yet.
    pub fn new(config: &Path, kept: Kept) -> Self {
        Self {
            config: config.to_owned(),
            kept,
            task: None,
            board: Board::default(),
            loaded: Labelled::default(),
            due: None,
            last: None,
        }
    }

    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Waits until the API server has said something, but no longer than this.
    pub async fn first(&mut self, grace: Duration) {
        self.follow();
        let until = Instant::now() + grace;
        while Instant::now() < until && self.waits() {
            sleep(LOOK).await;
        }
    }

    /// What is known now.
    pub fn known(&mut self) -> Labelled {
        self.follow();
        self.current()
    }

    /// What to load the configuration with now, kept for the next process.
    pub fn take(&mut self) -> Labelled {
        self.loaded = self.known();
        self.due = None;
        self.last = Some(Instant::now());
        if let Some(task) = &self.task {
            keep(&self.kept, &task.selectors, &self.loaded);
        }
        self.loaded.clone()
    }

    /// Ready when other namespaces are selected than at the last load. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            if let Some(due) = self.due {
                sleep_until(due).await;
                self.due = None;
                if self.current() != self.loaded {
                    tracing::info!("other namespaces have the labels that rules select them by");
                    return;
                }
            }
            let Some(task) = &mut self.task else {
                return std::future::pending().await;
            };
            if task.said.changed().await.is_err() {
                // Nothing watches any more: its task has panicked.
                return std::future::pending().await;
            }
            let gathered = Instant::now() + GATHER;
            let spaced = self.last.map(|last| last + SHORTEST);
            self.due = Some(spaced.map_or(gathered, |spaced| spaced.max(gathered)));
        }
    }

    fn current(&self) -> Labelled {
        let Some(task) = &self.task else {
            return Labelled::default();
        };
        let mut labelled = task.said.borrow().labelled.clone();
        labelled.retain(&task.selectors);
        labelled
    }

    /// Whether the API server is asked and has said nothing.
    fn waits(&self) -> bool {
        let said = self.task.as_ref().map(|task| task.said.borrow());
        said.is_some_and(|said| said.error.as_deref() == Some(ASKED))
    }

    /// Looks at what the configuration selects. One that is wrong leaves everything as it is: so does the load.
    fn follow(&mut self) {
        let Ok((selectors, watches)) = config::to_select(&self.config) else {
            return;
        };
        if selectors.is_empty() {
            self.task = None;
            self.board.show(None);
            return;
        }
        let is_same = |task: &Task| task.selectors == selectors && task.watches == watches;
        if self.task.as_ref().is_some_and(is_same) {
            return;
        }
        let known = match &self.task {
            Some(task) => task.said.borrow().labelled.clone(),
            None => known_before(&self.kept),
        };
        let task = Task::start(selectors, watches, known);
        self.board.show(Some(Shown {
            selectors: task.selectors.clone(),
            said: task.said.clone(),
        }));
        self.task = Some(task);
    }
}

impl Task {
    /// `known` is what was known before.
    fn start(selectors: Vec<Labels>, watches: bool, mut known: Labelled) -> Self {
        known.retain(&selectors);
        let mut first = Selected::nothing(ASKED);
        first.labelled = known;
        let (sender, said) = latest::channel(first);
        let mut watch = JoinSet::new();
        let unused = match spawn(&mut watch, &selectors, watches, &sender) {
            Ok(()) => None,
            Err(why) => {
                tracing::warn!(
                    why,
                    "namespaces are not watched; rules that select them by labels are for those that were known before, or for none"
                );
                sender.send_modify(|selected| selected.error = Some(why));
                Some(sender)
            }
        };
        Self {
            selectors,
            watches,
            said,
            _unused: unused,
            _watch: watch,
        }
    }
}

#[cfg(feature = "kubernetes")]
fn spawn(
    watch: &mut JoinSet<()>,
    selectors: &[Labels],
    watches: bool,
    sender: &latest::Sender<Selected>,
) -> Result<(), String> {
    use crate::sources::{client, namespaces};

    let client = client::where_allowed(watches)?;
    watch.spawn(namespaces::follow(
        client,
        selectors.to_vec(),
        sender.clone(),
    ));
    Ok(())
}

#[cfg(not(feature = "kubernetes"))]
fn spawn(
    _: &mut JoinSet<()>,
    _: &[Labels],
    watches: bool,
    _: &latest::Sender<Selected>,
) -> Result<(), String> {
    Err(if watches {
        crate::sources::NOT_BUILT.to_owned()
    } else {
        "[kubernetes] watch = false".to_owned()
    })
}

/// Selectors and the namespaces that have their labels.
type Known = Vec<(Labels, BTreeSet<String>)>;

fn keep(kept: &Kept, selectors: &[Labels], labelled: &Labelled) {
    let known = selectors
        .iter()
        .filter_map(|one| Some((one.clone(), labelled.of(one)?.clone())));
    let known: Known = known.collect();
    if !known.is_empty() {
        kept.write(KEPT, &known);
    }
}

fn known_before(kept: &Kept) -> Labelled {
    let known: Known = kept.read(KEPT).unwrap_or_default();
    let mut labelled = Labelled::default();
    for (selector, namespaces) in known {
        labelled.set(selector, namespaces);
    }
    labelled
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures::FutureExt as _;

    use super::*;

    /// A configuration, removed with the test.
    struct Files(PathBuf);

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    impl Files {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir()
                .join(format!("gregor-selecting-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            let files = Self(path);
            files.configure("namespaces = { tier = \"gold\" }");
            files
        }

        fn config(&self) -> PathBuf {
            self.0.join("gregor.toml")
        }

        fn configure(&self, keys: &str) {
            let text = format!(
                "[intercept]\nservers = [\"10.0.0.1\"]\n[[rule]]\nname = \"a\"\nmatch = \"*.a.{{namespace}}.test\"\ncname = \"up.{{namespace}}.test\"\n{keys}\n"
            );
            fs::write(self.config(), text).unwrap();
        }

        fn start(&self) -> Selecting {
            let kept = Kept::new(None, &self.0.join("gregor.sock"));
            Selecting::new(&self.config(), kept)
        }
    }

    fn tier(value: &str) -> Labels {
        Labels::from([("tier".to_owned(), vec![value.to_owned()])])
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// In the place of the watch.
    fn say(selecting: &Selecting, selector: &Labels, namespaces: &[&str]) {
        let sender = selecting.task.as_ref().unwrap()._unused.as_ref().unwrap();
        sender.send_modify(|selected| {
            selected.heard(std::time::Instant::now());
            selected.labelled.set(selector.clone(), names(namespaces));
        });
    }

    #[tokio::test]
    async fn changes_are_gathered_and_what_is_loaded_already_is_none() {
        let files = Files::new("gathered");
        let mut selecting = files.start();
        selecting.first(Duration::from_secs(1)).await;
        assert_eq!(selecting.take(), Labelled::default());
        let status = selecting.board().status();
        assert_eq!((status.selectors, status.unknown), (1, 1));
        let why = if cfg!(feature = "kubernetes") {
            "not in a cluster"
        } else {
            crate::sources::NOT_BUILT
        };
        assert_eq!(status.error.as_deref(), Some(why));

        let gold = tier("gold");
        // Late enough for any machine.
        let load = Instant::now() + Duration::from_secs(3600);
        selecting.last = Some(load);
        say(&selecting, &gold, &["foo"]);
        // Other events of the loop cancel it.
        for _ in 0..3 {
            assert!(selecting.changed().now_or_never().is_none());
        }
        say(&selecting, &gold, &["foo", "bar"]);
        assert_eq!(selecting.due, Some(load + SHORTEST));
        selecting.due = Some(Instant::now());
        selecting.changed().await;
        assert_eq!(selecting.take().of(&gold), Some(&names(&["bar", "foo"])));
        assert_eq!(selecting.board().status().namespaces, 2);

        // There and back.
        say(&selecting, &gold, &["foo"]);
        say(&selecting, &gold, &["bar", "foo"]);
        let waited = tokio::time::timeout(2 * SHORTEST, selecting.changed()).await;
        assert!(waited.is_err(), "the same set is not a change");
        say(&selecting, &gold, &[]);
        selecting.changed().await;
        assert_eq!(selecting.take().of(&gold), Some(&names(&[])));
    }

    #[tokio::test]
    async fn what_is_known_of_a_selector_stays_over_reloads_and_restarts() {
        let files = Files::new("stays");
        let mut selecting = files.start();
        selecting.take();
        let (gold, silver) = (tier("gold"), tier("silver"));
        say(&selecting, &gold, &["foo"]);
        files.configure("namespaces = { tier = [\"gold\"] }\n[[rule]]\nname = \"b\"\nmatch = \"*.b.{namespace}.test\"\ncname = \"up.{namespace}.test\"\nnamespaces = { tier = \"silver\" }");
        let known = selecting.take();
        assert_eq!(known.of(&gold), Some(&names(&["foo"])));
        assert_eq!(known.of(&silver), None);
        // A configuration that is wrong leaves it as it is.
        files.configure("namespaces = {");
        assert_eq!(selecting.take(), known);

        files.configure("namespaces = { tier = \"gold\" }");
        let mut next = files.start();
        next.first(Duration::ZERO).await;
        assert_eq!(next.take().of(&gold), Some(&names(&["foo"])));
        fs::write(files.0.join("namespaces.json"), "[[").unwrap();
        assert_eq!(files.start().take(), Labelled::default());

        files.configure("namespaces = [\"foo\"]");
        assert_eq!(next.take(), Labelled::default());
        assert_eq!(next.board().status(), SelectedStatus::default());
        assert!(next.changed().now_or_never().is_none());
    }
}
