void second_enter(void);
void second_leave(void);
