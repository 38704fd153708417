//! A seeded UDP relay that loses, delays, reorders, duplicates, corrupts and rebinds.
