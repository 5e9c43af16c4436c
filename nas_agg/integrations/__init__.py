"""Networks of this package in other libraries, which are imported only where they are asked for."""
