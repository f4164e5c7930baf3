"""From statements to what people look at: tables, the report, its figures."""
