//! The data of the samples, and the parts of it that the node serves. The files are made by `scripts/make-assets.py`.

use serde::Serialize;
use utoipa::ToSchema;

/// Path of [`orders_csv`], as `text/csv`.
pub const ORDERS_PATH: &str = "/api/sse/samples/orders.csv";

/// Path of [`quotes`], with `?page=N` from 1; an unknown page is a 404.
pub const QUOTES_PATH: &str = "/api/sse/samples/quotes";

/// A picture of 1600 × 1000 pixels.
pub(super) const HARBOUR: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/harbour.png"));

const ORDERS: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/orders.csv"));

const CARRIERS: [&str; 4] = ["Baltic Lines", "Nordic Freight", "Hanse Cargo", "Tideway"];

const ROUTES: [&str; 5] = ["Hamburg-Oslo", "Rotterdam-Bergen", "Gdansk-Turku", "Antwerp-Reykjavik", "Kiel-Gothenburg"];

/// A page of freight quotes.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(examples(json!({
    "page": 1, "pages": 5,
    "quotes": [{ "id": 1, "carrier": "Hanse Cargo", "route": "Gdansk-Turku", "price": 353.39, "days": 4 }],
})))]
pub struct QuotePage {
    /// Its number, from 1.
    pub page: u32,
    /// Number of pages.
    pub pages: u32,
    /// The quotes of this page.
    pub quotes: Vec<Quote>,
}

/// The price of a carrier for a route.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Quote {
    /// Its number over all pages.
    pub id: u32,
    /// Name of the carrier.
    pub carrier: &'static str,
    /// Both ends of the route.
    pub route: &'static str,
    /// Price in euros.
    pub price: f64,
    /// Duration in days.
    pub days: u32,
}

/// Pages of quotes.
const PAGES: u32 = 5;

/// Quotes of one page.
const PAGE_SIZE: u32 = 20;

/// Ten thousand orders: `id,date,region,product,quantity,unit_price`.
pub fn orders_csv() -> &'static [u8] {
    ORDERS
}

/// One page of freight quotes; `None` after the last page.
///
/// Every call returns the same quotes: they are computed from their number.
pub fn quotes(page: u32) -> Option<QuotePage> {
    if !(1..=PAGES).contains(&page) {
        return None;
    }
    let first = (page - 1) * PAGE_SIZE + 1;
    Some(QuotePage { page, pages: PAGES, quotes: (first..first + PAGE_SIZE).map(quote).collect() })
}

fn quote(id: u32) -> Quote {
    // Multiplying by odd numbers scatters neighbours; the results stay small enough to be exact.
    let scatter = |factor: u32, bound: u32| (id * factor) % 8191 % bound;
    let cents = 18_000 + scatter(2477, 42_000) * 7;
    Quote {
        id,
        carrier: CARRIERS[scatter(911, 4) as usize],
        route: ROUTES[scatter(577, 5) as usize],
        price: f64::from(cents) / 100.0,
        days: 2 + scatter(313, 9),
    }
}
