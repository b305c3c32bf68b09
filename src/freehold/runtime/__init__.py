"""Runtime: loading, leasing, surviving; `wiring` alone knows every concrete class."""
