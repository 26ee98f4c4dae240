//! Pages of entities, newest first.

use std::{borrow::Borrow, collections::BTreeMap, ops::Bound};

/// The filter of a list of entities.
#[derive(Clone, Debug)]
pub struct Filter<S> {
    /// Only entities with this status.
    pub status: Option<S>,
    /// Only entities of this user.
    pub user: Option<String>,
    /// Only entities older than this id: the `next` of the previous page.
    pub after: Option<String>,
    /// Maximum number of entities in the page, 1 to 1000; 0 means 50.
    pub limit: usize,
}

/// The page size if the filter sets none.
const DEFAULT_LIMIT: usize = 50;
/// The largest page.
const MAX_LIMIT: usize = 1000;

// === impl Filter ===

impl<S> Default for Filter<S> {
    fn default() -> Self {
        Self { status: None, user: None, after: None, limit: 0 }
    }
}

impl<S: PartialEq> Filter<S> {
    fn matches(&self, status: &S, user: Option<&str>) -> bool {
        self.status.as_ref().is_none_or(|wanted| wanted == status)
            && self.user.as_deref().is_none_or(|wanted| user == Some(wanted))
    }

    /// True if the filter selects no status and no user.
    pub fn is_empty(&self) -> bool {
        self.status.is_none() && self.user.is_none()
    }
}

/// The page of the filter, and the `after` of the next page; `None` if this is the last page.
///
/// `entities` are ordered by id, and ids grow with time. `status_and_user` and `row` return the parts of an entity that
/// the filter and the page need.
pub fn list<K: Ord + Borrow<str>, E, S: PartialEq, R>(
    entities: &BTreeMap<K, E>,
    filter: &Filter<S>,
    status_and_user: impl Fn(&E) -> (S, Option<&str>),
    row: impl Fn(&E) -> R,
) -> (Vec<R>, Option<String>) {
    let limit = if filter.limit == 0 { DEFAULT_LIMIT } else { filter.limit.min(MAX_LIMIT) };
    let end = filter.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut matching = entities.range::<str, _>((Bound::Unbounded, end)).rev().filter(|(_, entity)| {
        let (status, user) = status_and_user(entity);
        filter.matches(&status, user)
    });
    let (mut rows, mut last) = (Vec::new(), None);
    for (id, entity) in matching.by_ref().take(limit) {
        rows.push(row(entity));
        last = Some(id);
    }
    let next = last.filter(|_| matching.next().is_some()).map(|id| id.borrow().to_owned());
    (rows, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(filter: &Filter<bool>) -> (Vec<u32>, Option<String>) {
        let entities = BTreeMap::from([("a", 1_u32), ("b", 2), ("c", 3), ("d", 4)]);
        let user = |entity: u32| if entity < 3 { Some("ann") } else { None };
        list(&entities, filter, |entity| (entity % 2 == 0, user(*entity)), |entity| *entity)
    }

    #[test]
    fn pages_are_newest_first_and_the_last_one_has_no_next() {
        let all = Filter { limit: 2, ..Filter::default() };
        assert_eq!(page(&all), (vec![4, 3], Some("c".into())));
        assert_eq!(page(&Filter { after: Some("c".into()), ..all }), (vec![2, 1], None));
        assert_eq!(page(&Filter { after: Some("a".into()), ..Filter::default() }), (vec![], None));
    }

    #[test]
    fn status_and_user_select() {
        assert_eq!(page(&Filter { status: Some(true), ..Filter::default() }), (vec![4, 2], None));
        let own = Filter { user: Some("ann".into()), limit: 1, ..Filter::default() };
        assert_eq!(page(&own), (vec![2], Some("b".into())));
        assert_eq!(page(&Filter { status: Some(false), ..own }), (vec![1], None));
    }
}
