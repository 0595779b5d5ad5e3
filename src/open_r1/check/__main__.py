import sys

from open_r1.check import main

sys.exit(main(sys.argv[1:]))
