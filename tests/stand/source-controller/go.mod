module stand/source-controller

go 1.26.8
