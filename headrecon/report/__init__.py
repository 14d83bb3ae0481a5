"""Results for people: contact sheet, turntable, HTML report. Everything is returned as arrays, bytes or text."""
